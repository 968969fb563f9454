"""A controller beside a control plane of its own, and what its requests and its process cost."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from api import Api, Gateways

CACHE = Path(os.environ.get("EVENKEEL_REALK8S_CACHE")
             or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evenkeel-realk8s") / "bin"
TICK = os.sysconf("SC_CLK_TCK")
# Applications of one namespace: without an annotation each Canary answers to all SLOs beside it.
TOGETHER = 50


def place(n):
    """Namespace and name of an application."""
    return f"shop{n // TOGETHER}", f"a{n}"


def collection(kind, namespace=None):
    api = {"canaries": "flagger.app/v1beta1", "deployments": "apps/v1",
           "prometheusservicelevels": "sloth.slok.dev/v1", "gateways": "gateway.networking.k8s.io/v1"}
    root = f"/apis/{api[kind]}" if kind in api else "/api/v1"
    return f"{root}/namespaces/{namespace}/{kind}" if namespace else f"{root}/{kind}"


OFF = {"disable": True}


def deployment(name, image="web:1"):
    # The defaults of the API server are left to it.
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                {"name": "main", "image": image, "ports": [{"containerPort": 8080}]}]}}}}


def canary(name, namespace):
    return {"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": {"name": name}, "spec": {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "service": {"port": 80, "targetPort": 8080, "gatewayRefs": [{"name": "public", "namespace": namespace}]},
        "analysis": {"interval": "10s", "threshold": 5, "maxWeight": 50, "stepWeight": 5, "metrics": [
            {"name": "request-success-rate", "thresholdRange": {"min": 99}, "interval": "1m"}]}}}


def slo(name):
    rate = "sum(rate(http_requests_total{job=\"%s\"%s}[{{.window}}]))"
    return {"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel", "metadata": {"name": name}, "spec": {
        "service": name, "slos": [{"name": "availability", "objective": 99.9,
            "sli": {"events": {"errorQuery": rate % (name, ",code=~\"5..\""), "totalQuery": rate % (name, "")}},
            "alerting": {"name": "Errors", "pageAlert": OFF, "ticketAlert": OFF}}]}}


def version(image):
    """A patch of a Deployment."""
    containers = [{"name": "main", "image": image, "ports": [{"containerPort": 8080}]}]
    return {"spec": {"template": {"spec": {"containers": containers}}}}


class Bed:
    """A control plane, and the admin's way to it."""

    def __init__(self, folder, name):
        self.name, self.home = name, folder / name
        self.kubeconfig = self.home / "kubeconfig"
        self.api = Api(self.kubeconfig)
        self.read_to, self.requests = 0, []

    def kubectl(self, *words, given=None):
        command = [CACHE / "kubectl", "--kubeconfig", self.kubeconfig, *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.name}: kubectl {' '.join(words)}: {done.stderr[-800:]}")
        return done.stdout

    def prepare(self, definitions, rights):
        """Definitions as YAML, and the rights of the users, as objects."""
        approved = "    api-approved.kubernetes.io: https://github.com/kubernetes-sigs/gateway-api/pull/1\n"
        parts = re.split(r"(?m)^---\n", definitions)
        for at, part in enumerate(parts):
            # Without this annotation an API server refuses the Gateway API's group.
            if ".gateway.networking.k8s.io" in part and "api-approved" not in part:
                part = re.sub(r"(?m)^  annotations:\n", lambda found: found.group() + approved, part, count=1)
                if "api-approved" not in part:
                    part = re.sub(r"(?m)^metadata:\n", "metadata:\n  annotations:\n" + approved, part, count=1)
                parts[at] = part
        self.kubectl("apply", "--server-side", "-f", "-", given="---\n".join(parts))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        self.kubectl("apply", "-f", "-", given="\n".join("---\n" + json.dumps(right) for right in rights))
        self.gateways = Gateways(self.api)

    def fill(self, canaries, slos=0):
        """Applications with a Canary each, and SLOs; those that are there already are left."""
        there = lambda kind: {(one["metadata"].get("namespace"), one["metadata"]["name"])
                              for one in self.api.items(collection(kind))}
        spaces, old = {place(n)[0] for n in range(max(canaries, slos))}, there("namespaces")
        new = sorted(space for space in spaces if (None, space) not in old)
        self.api.create_all([("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace",
                                                     "metadata": {"name": space}}) for space in new])
        gateway = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "public"},
                   "spec": {"gatewayClassName": "example",
                            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}
        pairs = [(collection("gateways", space), gateway) for space in new]
        for kind, make, count in (("deployments", lambda name, _: deployment(name), canaries),
                                  ("canaries", canary, canaries),
                                  ("prometheusservicelevels", lambda name, _: slo(name), slos)):
            if count:
                old = there(kind)
                todo = [place(n) for n in range(count)]
                pairs += [(collection(kind, space), make(name, space)) for space, name in todo if (space, name) not in old]
        self.api.create_all(pairs)

    def phases(self):
        counts = {}
        for item in self.api.items(collection("canaries")):
            phase = item.get("status", {}).get("phase", "")
            counts[phase] = counts.get(phase, 0) + 1
        return counts

    def audit(self, user):
        """Requests of a user so far, as (verb, resource, time); a watch counts when it begins."""
        with (self.home / "audit.log").open("rb") as log:
            log.seek(self.read_to)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self.read_to += len(line)
                event = json.loads(line)
                if (event["verb"] == "watch") != (event["stage"] == "ResponseStarted"):
                    continue
                ref = event.get("objectRef", {})
                what = ref.get("resource") or event["requestURI"]
                if ref.get("subresource"):
                    what += "/" + ref["subresource"]
                at = event["requestReceivedTimestamp"]
                self.requests.append((event["user"]["username"], event["verb"], what, at,
                                      event.get("responseStatus", {}).get("code", 0)))
        return [one[1:] for one in self.requests if one[0] == user]


class Controller:
    """A process with a user of its own."""

    def __init__(self, bed, user, command):
        self.bed, self.user = bed, user
        own = bed.home / f"{user}.kubeconfig"
        own.write_text(bed.kubeconfig.read_text().replace("token-of-admin", f"token-of-{user}"))
        self.path = bed.home / f"{user}.log"
        self.log = self.path.open("a")
        self.began = time.monotonic()
        words = [str(own) if word == "KUBECONFIG" else word for word in command]
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def requests(self):
        return self.bed.audit(self.user)

    def cpu(self):
        """Seconds of processor time so far: its own, and that of the kernel for it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) / TICK, int(fields[12]) / TICK

    def memory_mb(self):
        """Its share of memory (PSS), in millions of bytes."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"(?m)^Pss:\s+(\d+) kB", text).group(1)) * 1024 / 1e6

    def memory_max_mb(self):
        """The most that it ever had, what it shares included (VmHWM)."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"(?m)^VmHWM:\s+(\d+) kB", text).group(1)) * 1024 / 1e6

    def check(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.user} has ended: {self.path.read_text()[-800:]}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def tally(requests):
    counts = {}
    for verb, what, *_ in requests:
        counts[f"{verb} {what}"] = counts.get(f"{verb} {what}", 0) + 1
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items(), key=lambda kv: -kv[1])[:9])
