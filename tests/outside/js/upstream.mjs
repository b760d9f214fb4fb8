// A service that knows nothing of payments, for a paid proxy to stand before.
//
// Configuration: { port? }. Prints { ready: url }.
//   any /echo      answers at once with what was asked
//   any path with ?charge=N tells the proxy, in the header hearth-charge, what the answer cost (whole tokens)
//   any /fails     answers 500
//   any /stream    sends one event at once and the last one only after POST /control/release
//   POST /control/release lets every waiting stream end; GET /control/served says how many requests were served
import { configuration, emit, load } from "./outside.mjs";

const express = load("express");
const config = configuration();
const waiting = new Set();
let served = 0;

const app = express();
app.use(express.json());
app.post("/control/release", (_request, response) => {
  for (const finish of waiting) finish();
  response.json({ released: waiting.size });
  waiting.clear();
});
app.get("/control/served", (_request, response) => response.json({ served }));
app.use((request, response, next) => {
  served += 1;
  if (request.query.charge) response.setHeader("hearth-charge", request.query.charge);
  next();
});
app.all("/echo", (request, response) => response.json({ method: request.method, body: request.body ?? null }));
app.all("/fails", (_request, response) => response.status(500).json({ error: "this service always fails here" }));
app.all("/stream", (_request, response) => {
  response.setHeader("content-type", "text/event-stream");
  response.write("data: first\n\n");
  waiting.add(() => response.end("data: last\n\n"));
});

const listener = app.listen(config.port ?? 0, "127.0.0.1", () => {
  emit({ ready: `http://127.0.0.1:${listener.address().port}` });
});
