// docs/studies/fp8.md and its pictures, from the results alone: whoever has results.json can make the page again, byte for byte.
#pragma once

#include "studies/fp8/results.h"
#include "studies/markdown.h"

#include <vector>

namespace finback::studies {

// fp8.md first, then the pictures that it shows.
std::vector<Document> write_page(const Results& results);

}  // namespace finback::studies
