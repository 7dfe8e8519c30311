"""A server that speaks vLLM's protocol, with faults on demand; as a program it always gives the same completion."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

EOS = 256
DEFAULT = "default"  # the version of the weights that a server starts with


def constant(body, weights):
    """One completion of two tokens, whatever the weights are."""
    count = body["sampling_params"]["n"]
    return [([65, EOS], [-1.5, -0.25], "stop")] * count


class StandIn:
    """The state of a server.

    complete: (body of a request, folder of the weights) -> [(tokens, logp, finish reason)].
    faults: what happens to the next requests for completions, one after the other.
    calls: the requests so far, (path, body).
    """

    def __init__(self, complete=constant, port=0):
        self.complete, self.faults, self.calls, self.delay = complete, [], [], 0.0
        self.restart()
        handler = type("Handler", (Handler,), {"server_state": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def restart(self):
        """Forget all weights, as a server that was started again."""
        self.version, self.weights, self.adapters, self.paused = DEFAULT, None, {}, False

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def paths(self):
        return [path for path, _ in self.calls]

    def answer(self, path, body):
        """Status and content of an answer."""
        facts = {"/health": "", "/version": {"version": "0.32.0"}, "/weight_info": {"weight_version": self.version}}
        if path in facts:
            return 200, facts[path]
        if path in ("/pause", "/resume"):
            self.paused = path == "/pause"
            return 200, {"status": "ok"}
        if path == "/reset_prefix_cache":
            return 200, {"success": self.paused}
        if path == "/update_weight_version":
            self.version = body["new_version"]
            return 200, {"success": True}
        if path == "/collective_rpc" and body["method"] == "reload_weights":
            assert self.paused
            self.weights = body["kwargs"]["weights_path"]
            return 200, {"results": [None]}
        if path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = body["lora_path"]
            return 200, "loaded"
        if path == "/v1/unload_lora_adapter":
            known = self.adapters.pop(body["lora_name"], None)
            return (200, "unloaded") if known else (404, {"error": {"message": "no such adapter"}})
        if path == "/inference/v1/generate":
            return self.generate(body)
        return 404, {"detail": "Not Found"}

    def generate(self, body):
        model = body.get("model")
        if model is not None and model not in self.adapters:
            return 404, {"error": {"message": f"The model `{model}` does not exist."}}
        completions = self.complete(body, self.adapters.get(model, self.weights))
        return 200, {"model": model or "base", "choices": as_choices(completions, self.version)}


def as_choices(completions, version):
    """Completions, each (tokens, logp, finish reason), in the form in which a server gives them."""
    return [
        {
            "index": index,
            "finish_reason": reason,
            "token_ids": tokens,
            "logprobs": {
                "content": [{"token_id": t, "logprob": p, "rank": 1} for t, p in zip(tokens, logp, strict=True)]
            },
            "weight_versions": [{"version": version, "start": 0, "end": len(tokens)}],
        }
        for index, (tokens, logp, reason) in enumerate(completions)
    ]


FAULTY_CHOICES = {  # what a fault changes in the first completion of an answer
    "fewer log-probabilities": lambda choice: choice["logprobs"]["content"].pop(),
    "no log-probabilities": lambda choice: choice.update(logprobs=None),
    "aborted": lambda choice: choice.update(finish_reason="abort"),
    "cut": lambda choice: choice.update(finish_reason="length", token_ids=choice["token_ids"][:1]),
    "no end": lambda choice: choice.update(token_ids=[*choice["token_ids"][:-1], 7]),
    "other weights": lambda choice: choice["weight_versions"][0].update(version="other"),
    "no versions": lambda choice: choice.update(weight_versions=None),
    "not finite": lambda choice: choice["logprobs"]["content"][0].update(logprob=1e5),
}


def broken(fault, content):
    """The status and content of an answer with a fault."""
    if fault == "status 500":
        return 500, {"error": {"message": "EngineCore encountered an issue."}}
    if fault == "status 400":
        return 400, {"error": {"message": "The prompt is too long."}}
    if fault == "no choices":
        return 200, {"object": "error"}
    if fault == "fewer completions":
        content["choices"] = content["choices"][1:]
    else:
        FAULTY_CHOICES.get(fault, lambda choice: None)(content["choices"][0])
    return 200, content


class Handler(BaseHTTPRequestHandler):
    server_state: StandIn

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.serve(None)

    def do_POST(self):
        self.serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def serve(self, body):
        state, path = self.server_state, urlsplit(self.path).path
        state.calls.append((path, body))
        generates = path == "/inference/v1/generate"
        fault = state.faults.pop(0) if generates and state.faults else None
        if generates:
            time.sleep(state.delay)
        if callable(fault):
            fault = fault()
        if fault == "closed":
            self.connection.close()
            return
        if fault == "hangs":
            time.sleep(1.5)
            return
        status, content = state.answer(path, body)
        if fault and status == 200:
            status, content = broken(fault, content)
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "broken off" else data)
        if fault == "broken off":
            self.connection.close()


if __name__ == "__main__":
    port = int(sys.argv[sys.argv.index("--port") + 1])
    print("the stand-in starts:", *sys.argv[1:], flush=True)
    if "--fail" in sys.argv:
        sys.exit("no memory for the cache")
    StandIn(port=port).server.serve_forever(0.02)
