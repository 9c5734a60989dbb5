"""A server that asks models: `mathllm serve`. It needs the extra `serve`; nothing else of mathllm imports it.

app.py        routes, and what starts and ends with the server        protocol.py   what comes in and goes out
openai.py     the routes that OpenAI's clients know                   guard.py      who may ask, and how much
engine.py     the one thread that computes                            observe.py    metrics and logs
worker.py     what it does in a turn: intake.py, decoder.py, outbox.py
versions.py   the models, each known by its content                   health.py     the container's health check
static/       the page
"""
