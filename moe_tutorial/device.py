"""Which device to compute on, and with how many threads."""

from __future__ import annotations

import os

import torch

from moe_tutorial.config import DeviceConfig


def choose_device(config: DeviceConfig) -> torch.device:
    """auto: the first GPU of gpu_ids, else Apple's MPS if use_mps, else the CPU.

    Raises: ValueError if the device asked for is not there.
    """
    if config.use_data_parallel:
        raise ValueError(
            "device.use_data_parallel=true is not available: training uses one device so far; "
            "set it to false, and gpu_ids to the one GPU to use"
        )
    gpus = torch.cuda.device_count()
    if config.type == "cuda" or (config.type == "auto" and gpus > 0):
        if config.gpu_ids[0] >= gpus:
            raise ValueError(
                f"device.type={config.type!r} with device.gpu_ids={config.gpu_ids} needs GPU "
                f"{config.gpu_ids[0]}, but PyTorch sees {gpus}; set device.type=cpu"
            )
        return torch.device("cuda", config.gpu_ids[0])
    mps = torch.backends.mps.is_available()
    if config.type == "mps" and not (mps and config.use_mps):
        raise ValueError("device.type='mps' is not available here; set device.type=cpu")
    if config.type in ("auto", "mps") and mps and config.use_mps:
        return torch.device("mps")
    return torch.device("cpu")


def set_threads(config: DeviceConfig) -> None:
    """Apply num_cpu_threads (-1: all cores but two, at least one; None: PyTorch's own choice).

    To be called once, before any computation.
    """
    if config.num_cpu_threads is not None:
        torch.set_num_threads(thread_count(config.num_cpu_threads, available_cores()))
    if config.num_cpu_interop_threads not in (None, torch.get_num_interop_threads()):
        torch.set_num_interop_threads(config.num_cpu_interop_threads)


def thread_count(num_cpu_threads: int, cores: int) -> int:
    """Threads for a setting: -1 leaves two cores free, but never less than one thread."""
    return max(1, num_cpu_threads if num_cpu_threads > 0 else cores - 2)


def available_cores() -> int:
    """Cores this process may use; the operating system's mask counts where there is one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
