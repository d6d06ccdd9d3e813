// Any bytes as a tokenizer.json.
#include "tests/fuzz/fuzz.h"
#include "text/tokenizer_json.h"

FUZZ(input) { finback::text::parse_tokenizer_json(input, "input"); }
