#include "numerics/bf16.h"
