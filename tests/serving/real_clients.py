"""Asks a server with the clients people use, and prints what they got as JSON: real_clients.py CLIENT PORT."""

import asyncio
import json
import sys

import numpy as np

IMAGES = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (250, 10)])


def ask_triton(port):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready() and client.is_model_ready("shades"),
        "extensions": client.get_server_metadata()["extensions"],
        "metadata": client.get_model_metadata("shades"),
        "other": client.is_model_ready("shades", "1"),
    }
    version = found["metadata"]["versions"][0]
    found["version ready"] = client.is_model_ready("shades", version)
    for binary in (True, False):
        tensor = triton.InferInput("image", IMAGES.shape, "UINT8")
        tensor.set_data_from_numpy(IMAGES, binary_data=binary)
        wanted = [triton.InferRequestedOutput(name, binary_data=not binary) for name in ("label", "embedding")]
        for outputs in (None, wanted):
            result = client.infer("shades", [tensor], model_version=version, outputs=outputs, request_id="mine")
            arrays = {each["name"]: result.as_numpy(each["name"]).tolist() for each in result.get_response()["outputs"]}
            arrays["label"] = [each.decode() if isinstance(each, bytes) else each for each in arrays["label"]]
            found[f"infer {binary} {outputs is None}"] = [result.get_response()["id"], arrays]
    wrong = triton.InferInput("image", [1, 2], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 2), np.uint8))
    for case, options in (("shape", {}), ("compressed", {"request_compression_algorithm": "gzip"})):
        try:
            client.infer("shades", [wrong], **options)
        except triton.InferenceServerException as error:
            found[case] = [error.status(), error.message()]
    with_async = asyncio.run(ask_triton_aio(port))
    return found | {"aio": with_async}


async def ask_triton_aio(port):
    import tritonclient.http.aio as triton

    async with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = triton.InferInput("image", IMAGES.shape, "UINT8")
        tensor.set_data_from_numpy(IMAGES)
        result = await client.infer("shades", [tensor])
        return result.as_numpy("embedding").tolist()


async def ask_kserve(port):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    base = f"http://127.0.0.1:{port}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found = {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model": await client.is_model_ready(base, "shades"),
            "other": await client.is_model_ready(base, "../shades"),
        }
        for binary in (True, False):
            tensor = InferInput("image", list(IMAGES.shape), "UINT8")
            tensor.set_data_from_numpy(IMAGES, binary_data=binary)
            for parameters in (None, {"binary_data_output": True}):
                request = InferRequest("shades", [tensor], request_id="mine", parameters=parameters)
                answer = await client.infer(base, request, model_name="shades")
                arrays = {each.name: np.asarray(each.as_numpy()).tolist() for each in answer.outputs}
                arrays["label"] = [each.decode() if isinstance(each, bytes) else each for each in arrays["label"]]
                found[f"infer {binary} {parameters is None}"] = [answer.id, arrays]
        return found


if __name__ == "__main__":
    port = int(sys.argv[2])
    print(json.dumps(ask_triton(port) if sys.argv[1] == "tritonclient" else asyncio.run(ask_kserve(port))))
