"""Starts the Ray Serve application on loopback, asks it each question of standard input, and prints the answers."""

import json
import sys
import urllib.error
import urllib.request

import ray
from ray import serve

from scripts.deploy.ray import serve_app


def ask(url, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def main():
    task = json.load(sys.stdin)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": task["port"]})
    try:
        serve.run(serve_app.make_app({"package": task["package"]}))
        url = f"http://127.0.0.1:{task['port']}"
        answers = [ask(url + path, bytes.fromhex(body)) for path, body in task["questions"]]
    finally:
        serve.shutdown()
        ray.shutdown()
    print("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
