// Which table this machine runs. A backend is a table copied from a slower one and overwritten where it has its own functions.
#include "core/error.h"
#include "kernels/cpu/entries.h"
#include "kernels/kernels.h"
