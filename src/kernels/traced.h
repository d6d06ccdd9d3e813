// A table whose every function is a span of its name in ctx.spans, with the operations and bytes that its operands tell, around a
// call of the same function of another table. A run without a trace uses the other table itself.
#pragma once

#include "kernels/kernels.h"

namespace finback::kernels {

struct TracedTable : Table {
  explicit TracedTable(const Table& inner);  // which must outlive it
  const Table& inner;
};

}  // namespace finback::kernels
