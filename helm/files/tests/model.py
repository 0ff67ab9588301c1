"""The model answers: test of an installation."""

import os

import httpx

url, key, name = (os.environ[f"MIMO_MODEL_{part}"] for part in ("URL", "API_KEY", "NAME"))
question = {"model": name, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 16}
with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=300.0, trust_env=False) as http:
    served = [model["id"] for model in http.get(f"{url}/models").raise_for_status().json()["data"]]
    assert name in served, f"{name} is not among {served}"
    answer = http.post(f"{url}/chat/completions", json=question).raise_for_status().json()
    print("tokens:", answer["usage"]["completion_tokens"])
