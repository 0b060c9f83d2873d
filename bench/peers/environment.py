"""What the peers' processes are told, by the names of environment variables."""

from __future__ import annotations

#: Where the model bundle is.
BUNDLE = "BENCH_BUNDLE"
#: Set: its networks are run by Thoraq's engine instead of Keras.
OUR_ENGINE = "BENCH_OUR_ENGINE"
#: Of the ordinary Celery design: its Redis, and the folder that edge and worker share.
REDIS_URL = "BENCH_REDIS_URL"
UPLOADS = "BENCH_UPLOADS"
#: Set: its tasks answer at once, without a model.
NULL = "BENCH_NULL"
#: The port that LitServe is to take, which has no command line.
LITSERVE_PORT = "BENCH_PORT"
