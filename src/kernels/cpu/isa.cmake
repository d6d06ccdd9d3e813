# src/kernels/cpu/isa/*.cpp are compiled once per instruction set and chosen at run time (kernels/table.cpp).
