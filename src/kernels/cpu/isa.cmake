# Every .cpp in this folder is compiled once per instruction set (or those FILES that make use of it), into one object library each, and
# chosen at run time by kernels/table.cpp. Such a file includes only intrinsics and plain-data headers (no standard library containers or
# algorithms), keeps everything but its add_… function in an anonymous namespace, and reaches FB_ISA (the namespace of its
# entry point) and its vector types from kernels/cpu/simd.h: an inline std:: function compiled with AVX-512 would be linked
# into the whole program and crash older machines (tests/house checks the objects' symbols).

# Fuzzing is for readers, which run no kernels; and its compiler, clang, does not take all that GCC takes in these files.
if(FINBACK_SANITIZE MATCHES fuzzer)
  target_compile_definitions(finback_kernels PRIVATE FB_REFERENCE_ONLY)
  return()
endif()

file(GLOB kernel_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/cpu/*.cpp)

# Formats whose every operation is specified: the same bits with and without an instruction that fuses two of them.
set_source_files_properties(kernels/cpu/logfmt.cpp kernels/reference/logfmt.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

# Fast in a debug build too; sanitizers' checks multiply what -O3 unrolls and vectorises, and compiling it takes minutes.
set(kernel_options -ffp-contract=fast -fno-exceptions)
if(NOT FINBACK_SANITIZE)
  list(APPEND kernel_options -O3)
endif()

function(finback_isa name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "FILES")
  set(sources ${kernel_sources})
  if(ARG_FILES)
    list(TRANSFORM ARG_FILES PREPEND ${CMAKE_SOURCE_DIR}/src/kernels/cpu/ OUTPUT_VARIABLE sources)
  endif()
  add_library(finback_kernels_${name} OBJECT ${sources})
  target_include_directories(finback_kernels_${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(finback_kernels_${name} PRIVATE finback_options fmt::fmt)
  target_compile_definitions(finback_kernels_${name} PRIVATE FB_ISA=${name})
  target_compile_options(finback_kernels_${name} PRIVATE ${kernel_options} ${ARG_UNPARSED_ARGUMENTS})
  target_sources(finback_kernels PRIVATE $<TARGET_OBJECTS:finback_kernels_${name}>)
  target_compile_definitions(finback_kernels PRIVATE FB_HAS_${name})
endfunction()

finback_isa(portable)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(avx2 -mavx2 -mfma -mf16c -mbmi -mbmi2)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512)
  finback_isa(avx2 ${avx2})
  finback_isa(avx512 ${avx512})
  set(avx512bf16 ${avx512} -mavx512bf16 -mavx512vbmi)
  finback_isa(avx512bf16 ${avx512bf16})
  finback_isa(amx ${avx512bf16} -mamx-tile -mamx-bf16 -mamx-int8 FILES attention.cpp attention_backward.cpp latent_attention.cpp linear.cpp scaled_linear.cpp packed_weights.cpp probe.cpp)
endif()
