"""The peer of serving_latency.py: for each line with a number, so many calls of a network, and the seconds of each."""

import json
import sys
import time

import numpy as np
import onnxruntime


def main() -> None:
    path, image_path, num_threads = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(num_threads)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = np.load(image_path)
    for line in sys.stdin:
        found = []
        for _ in range(int(line)):
            started = time.perf_counter()
            session.run(["logits"], {"image": image})
            found.append(time.perf_counter() - started)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
