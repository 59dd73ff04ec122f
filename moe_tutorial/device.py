"""Which device to compute on, and with how many threads."""

import os

import torch

from moe_tutorial.config import DeviceConfig


def choose_device(config: DeviceConfig) -> torch.device:
    """auto: a GPU of gpu_ids, else Apple's MPS if use_mps, else the CPU.

    The GPU is the first one, or in process i of a launcher on this machine the i-th.
    Raises: ValueError if the device asked for is not there.
    """
    gpus, process = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if config.type == "cuda" or (config.type == "auto" and gpus > 0):
        if process >= len(config.gpu_ids):
            raise ValueError(
                f"device.gpu_ids={config.gpu_ids} names {len(config.gpu_ids)} GPUs, but the "
                f"launcher started more processes here; name one GPU for each"
            )
        if config.gpu_ids[process] >= gpus:
            raise ValueError(
                f"device.type={config.type!r} with device.gpu_ids={config.gpu_ids} needs GPU "
                f"{config.gpu_ids[process]}, but PyTorch sees {gpus}; set device.type=cpu"
            )
        return torch.device("cuda", config.gpu_ids[process])
    mps = torch.backends.mps.is_available()
    if config.type == "mps" and not (mps and config.use_mps):
        raise ValueError("device.type='mps' is not available here; set device.type=cpu")
    if config.type in ("auto", "mps") and mps and config.use_mps:
        return torch.device("mps")
    return torch.device("cpu")


def set_threads(config: DeviceConfig) -> None:
    """Apply num_cpu_threads (-1: all cores but two, at least one; None: PyTorch's own choice).

    Processes of one launcher divide what -1 means; other numbers count for each of them.

    To be called once, before any computation.
    """
    if config.num_cpu_threads is not None:
        together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = thread_count(config.num_cpu_threads, available_cores(), together)
        torch.set_num_threads(threads)
    if config.num_cpu_interop_threads not in (None, torch.get_num_interop_threads()):
        torch.set_num_interop_threads(config.num_cpu_interop_threads)


def thread_count(num_cpu_threads: int, cores: int, processes: int = 1) -> int:
    """Threads of each process: -1 leaves two cores free, but never less than one thread."""
    return max(1, num_cpu_threads if num_cpu_threads > 0 else (cores - 2) // processes)


def available_cores() -> int:
    """Cores this process may use; the operating system's mask counts where there is one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
