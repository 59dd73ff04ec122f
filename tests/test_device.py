import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from moe_tutorial.config import DeviceConfig
from moe_tutorial.device import available_cores, choose_device, thread_count


@pytest.mark.parametrize(
    ("setting", "cores", "threads"), [(-1, 8, 6), (-1, 2, 1), (-1, 1, 1), (3, 2, 3)]
)
def test_minus_one_is_all_but_two_cores_and_at_least_one(setting, cores, threads):
    assert thread_count(setting, cores) == threads


def test_cores_are_those_this_process_may_use():
    assert 1 <= available_cores() <= os.cpu_count()


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["null", "1", "3"])
def test_threads_are_set_in_a_fresh_process(setting):
    code = (
        "import json, torch; from moe_tutorial.config import DeviceConfig; "
        "from moe_tutorial.device import set_threads; before = torch.get_num_threads(); "
        f"set_threads(DeviceConfig(num_cpu_threads=json.loads('{setting}'), "
        "num_cpu_interop_threads=2)); "
        "print(before, torch.get_num_threads(), torch.get_num_interop_threads())"
    )
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    before, threads, interop = out.split()
    assert threads == (before if setting == "null" else setting)
    assert interop == "2"


def test_cpu_is_the_cpu():
    assert choose_device(DeviceConfig(type="cpu")) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_asked_for_but_absent_says_what_to_set():
    with pytest.raises(ValueError, match=r"needs GPU 0, but PyTorch sees 0; set device\.type=cpu"):
        choose_device(DeviceConfig(type="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_takes_the_gpu():
    assert choose_device(DeviceConfig()) == torch.device("cuda", 0)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_mps_asked_for_but_absent_says_what_to_set():
    with pytest.raises(ValueError, match=r"device\.type='mps' is not available here"):
        choose_device(DeviceConfig(type="mps"))


def test_processes_on_one_machine_divide_the_cores():
    assert thread_count(-1, cores=8, processes=2) == 3
    assert thread_count(-1, cores=2, processes=2) == 1
    assert thread_count(3, cores=8, processes=2) == 3


def test_every_process_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    config = DeviceConfig(type="cuda", gpu_ids=[3, 1])
    for process, gpu in enumerate(config.gpu_ids):
        monkeypatch.setenv("LOCAL_RANK", str(process))
        assert choose_device(config) == torch.device("cuda", gpu)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"names 2 GPUs, but the launcher started more"):
        choose_device(config)
