#!/bin/sh
# curl against llada-rt serve: examples/ask.sh [http://127.0.0.1:8000]
set -eu
url=${1:-http://127.0.0.1:8000}

ask() {
  curl --silent --show-error --fail-with-body --no-buffer "$url$1" -H 'content-type: application/json' -d "$2"
  echo
}

question='{"role": "user", "content": "床前明月光的下一句是什么？ 直接输出句子即可。"}'
ask /v1/chat/completions "{\"messages\": [$question]}"
ask /v1/chat/completions "{\"messages\": [$question], \"stream\": true}"
ask /v1/completions '{"prompt": "白日依山尽，", "max_tokens": 6}'
ask /v1/infill '{"segments": ["春眠", 3, "，处处", 2, "鸟。"]}'
