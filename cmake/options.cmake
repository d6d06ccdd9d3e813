# Compile options that hold for every room.
add_library(finback_options INTERFACE)
target_compile_options(finback_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align -Wnull-dereference
  -Wno-missing-field-initializers -fno-math-errno)
if(FINBACK_WERROR)
  target_compile_options(finback_options INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 reports these inside the standard library and Boost when inlining under -O3.
  target_compile_options(finback_options INTERFACE -Wno-null-dereference -Wno-psabi)
endif()
if(FINBACK_SANITIZE)
  target_compile_options(finback_options INTERFACE -fsanitize=${FINBACK_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(finback_options INTERFACE -fsanitize=${FINBACK_SANITIZE})
endif()
