"""The API answers whoever has the key, and nobody else: test of an installation."""

import os

import httpx

url, key = os.environ["MIMO_SERVER_URL"], os.environ["MIMO_API_KEY"]
with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as http:
    print("ready:", http.get("/readyz").raise_for_status().json())
    listed = http.get("/v1/tasks", headers={"Authorization": f"Bearer {key}"}).raise_for_status().json()
    print("tasks:", len(listed["tasks"]))
    refused = http.get("/v1/tasks").status_code
    assert refused == 401, f"without a key it answered {refused}"
