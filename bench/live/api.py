"""A small client of an API server, and what stands around the controllers: a Prometheus whose
answers never change, and a Gateway API implementation that accepts every route."""

import http.client
import http.server
import json
import re
import ssl
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

ROUTES = "/apis/gateway.networking.k8s.io/v1/httproutes"
# Connections at once: more do not make an API server on a few cores faster.
PARALLEL = 12


class Refused(RuntimeError):
    """The API server's answer is not a good one."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text[-400:]}")
        self.code = code


class Api:
    """Requests as one user; a connection per thread."""

    def __init__(self, kubeconfig):
        text = kubeconfig.read_text()
        self.port = int(re.search(r"https://127\.0\.0\.1:(\d+)", text).group(1))
        self.token = re.search(r"token: ([^}\s]+)", text).group(1)
        self.context = ssl.create_default_context(cafile=re.search(r'certificate-authority: "([^"]+)"', text).group(1))
        self.local = threading.local()

    def connect(self, timeout=60):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=timeout)

    def headers(self, kind="application/json"):
        return {"Authorization": f"Bearer {self.token}", "Content-Type": kind}

    def call(self, method, path, body=None, kind="application/json"):
        for attempt in (1, 2):
            if not hasattr(self.local, "connection"):
                self.local.connection = self.connect()
            try:
                payload = None if body is None else json.dumps(body)
                self.local.connection.request(method, path, payload, self.headers(kind))
                answer = self.local.connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException):
                # An idle connection may have been closed.
                del self.local.connection
                if attempt == 2:
                    raise
        if answer.status >= 300:
            raise Refused(answer.status, text.decode(errors="replace"))
        return json.loads(text)

    def items(self, path):
        """All objects of a collection, in pages."""
        more = ""
        while True:
            page = self.call("GET", f"{path}?limit=500{more}")
            yield from page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return
            more = "&continue=" + urllib.parse.quote(token)

    def create_all(self, objects):
        """Creates (path, object) pairs, many at once, in order of their beginning."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(lambda pair: self.call("POST", *pair), objects):
                pass

    def merge(self, path, body):
        return self.call("PATCH", path, body, "application/merge-patch+json")


class Gateways:
    """Says of each generation of each route that it is accepted."""

    def __init__(self, api):
        self.api, self.ended = api, False
        self.weights = {}
        self.pool = ThreadPoolExecutor(PARALLEL)
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        while not self.ended:
            try:
                self.watch()
            except (OSError, ValueError, http.client.HTTPException, Refused):
                time.sleep(0.5)

    def watch(self):
        connection = self.api.connect(timeout=3600)
        # Without a revision it begins with all that is there.
        connection.request("GET", f"{ROUTES}?watch=true", None, self.api.headers())
        answer = connection.getresponse()
        if answer.status != 200:
            raise Refused(answer.status, answer.read().decode(errors="replace"))
        while not self.ended:
            line = answer.readline()
            if not line:
                return
            event = json.loads(line)
            if event["type"] in ("ADDED", "MODIFIED"):
                self.see(event["object"])

    def see(self, route):
        meta = route["metadata"]
        for rule in route["spec"].get("rules", []):
            for backend in rule.get("backendRefs", []):
                if backend["name"].endswith("-canary"):
                    self.weights[meta["name"]] = backend.get("weight", 1)
        parents = route.get("status", {}).get("parents", [])
        seen = [c.get("observedGeneration") for parent in parents for c in parent["conditions"]]
        if not seen or min(seen) < meta["generation"]:
            self.pool.submit(self.accept, route)

    def accept(self, route):
        meta = route["metadata"]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        conditions = [{"type": kind, "status": "True", "reason": kind, "message": "",
                       "observedGeneration": meta["generation"], "lastTransitionTime": stamp}
                      for kind in ("Accepted", "ResolvedRefs")]
        refs = [ref for ref in route["spec"].get("parentRefs", []) if ref.get("kind") != "Service"]
        parents = [{"parentRef": ref, "controllerName": "example.com/gateway", "conditions": conditions} for ref in refs]
        path = ROUTES.replace("/httproutes", f"/namespaces/{meta['namespace']}/httproutes/{meta['name']}/status")
        try:
            self.api.merge(path, {"status": {"parents": parents}})
        except Refused as error:
            if error.code not in (404, 409):
                raise

    def stop(self):
        self.ended = True
        self.pool.shutdown(wait=False, cancel_futures=True)


class Prometheus(http.server.BaseHTTPRequestHandler):
    """Knows one series for every query: nothing fails, and nothing changes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        form = urllib.parse.parse_qs(self.rfile.read(length).decode() or self.path.partition("?")[2])
        query = form.get("query", [""])[0]
        # Flagger asks for a share, in per cent; evenkeel for the two counters.
        bad = re.search(r"5\.[.*]", query) and "* 100" not in query and "*100" not in query.replace(" ", "")
        value = "0" if bad else "100"
        if self.path.startswith("/api/v1/query_range"):
            start, end, step = (float(form[name][0]) for name in ("start", "end", "step"))
            first = max(start, time.time() - 600)
            at = start + -(-(first - start) // step) * step
            values = []
            while at <= end:
                values.append([at, value])
                at += step
            result = [{"metric": {"job": "x"}, "values": values}] if values else []
            data = {"resultType": "matrix", "result": result}
        else:
            at = float(form.get("time", [time.time()])[0])
            data = {"resultType": "vector", "result": [{"metric": {"job": "x"}, "value": [at, value]}]}
        body = json.dumps({"status": "success", "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            # Whoever asked has given up.
            self.close_connection = True

    do_GET = do_POST

    def log_message(self, *_):
        pass


def prometheus():
    """Starts one; its server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Prometheus)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
