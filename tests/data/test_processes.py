import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("augmented_batches.py")


def run_processes(count, devices_each):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    arguments = [[address, str(count), str(k), str(devices_each)] for k in range(count)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    running = [
        subprocess.Popen([sys.executable, SCRIPT, *given], stdout=subprocess.PIPE, text=True, env=environment)
        for given in arguments
    ]
    said = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running]
    assert all(process.returncode == 0 for process in running)
    return said


def test_ids_and_augmented_pixels_are_the_same_on_any_number_of_processes():
    (alone,) = run_processes(1, 8)
    assert alone["devices"] == 8
    assert len({i for batch in alone["ids"] for i in batch}) > 30
    for count, devices_each in ((2, 4), (4, 2)):
        assert run_processes(count, devices_each) == [alone] * count
