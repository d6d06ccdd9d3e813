// Any bytes as a tiktoken.model without a tokenizer_config.json beside it.
#include "tests/fuzz/fuzz.h"
#include "text/tiktoken.h"

FUZZ(input) { finback::text::read_tiktoken(finback::fuzz::put("tiktoken.model", input)); }
