"""Puts a router in front of two servers: load spreads, and a killed server is routed around.

python router.py RZ MODEL_FILE SMG
"""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

RZ, FILE, SMG = sys.argv[1:4]
MODEL = "tested"


def expect(condition, what):
    if not condition:
        raise SystemExit(f"failed: {what}")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def until(condition, what, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"failed: {what}")


def start_server():
    command = [RZ, "serve", f"{MODEL}={FILE}", "--port", "0", "--log-level", "error", "--kv-memory", "256M"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().strip().removeprefix("listening on ")
    expect(address.startswith("http://"), "a server starts")
    until(lambda: json.loads(get(address + "/health"))["status"] == "ok", "a server is healthy")
    return process, address


def answered(address):
    found = re.search(r'^rz_requests_total\{model="tested",finished_reason="length"\} (\d+)', get(address + "/metrics"), re.M)
    return int(found[1]) if found else 0


def ask(base, index):
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Tell me about the number {index}."}],
            "max_tokens": 4, "ignore_eos": True}
    request = urllib.request.Request(base + "/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read()[:200]}"


def ask_many(base, count):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda index: ask(base, index), range(count)))


processes = []
try:
    servers = [start_server() for _ in range(2)]
    processes += [process for process, _ in servers]
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    router = [SMG, "launch", "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--worker-urls"]
    router += [address for _, address in servers]
    router += ["--prometheus-port", str(free_port()), "--log-level", "error"]
    processes.append(subprocess.Popen(router, stdout=subprocess.DEVNULL))
    until(lambda: ask(base, 0) == 200, "the router answers")

    results = ask_many(base, 40)
    expect(all(status == 200 for status in results), f"all are answered: {results}")
    shares = [answered(address) for _, address in servers]
    expect(min(shares) >= 10, f"both servers answer: {shares}")

    # One is killed while requests are on their way; nothing was streamed yet, so none is lost.
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_many, base, 40)
        time.sleep(0.3)
        servers[0][0].kill()
        results = asking.result()
    lost = [status for status in results if status != 200]
    expect(not lost, f"{len(lost)} requests are lost: {lost[:3]}")
    print(f"the router spreads the load ({shares[0]} and {shares[1]} answers) and goes around a killed server")
finally:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
