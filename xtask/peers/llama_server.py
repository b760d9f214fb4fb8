"""llama.cpp's own HTTP server, which the benchmark `answers` compares Hearth with.

Usage: llama_server.py MODEL_FILE THREADS SLOTS CONTEXT_TOKENS_PER_SLOT
Prints {"event": "ready", "url": ...} and serves until its standard input ends.
"""

import json
import sys

import xllamacpp

model, threads, slots, context_tokens = sys.argv[1], *map(int, sys.argv[2:5])
params = xllamacpp.CommonParams()
params.model.path = model
params.cpuparams.n_threads = threads
params.cpuparams_batch.n_threads = threads
params.n_parallel = slots
params.n_ctx = slots * context_tokens
# Any free port.
params.port = 0
server = xllamacpp.Server(params)
print(json.dumps({"event": "ready", "url": server.listening_address}), flush=True)
sys.stdin.read()
