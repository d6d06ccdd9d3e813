# Cross build for aarch64 (scripts/cross-aarch64). FINBACK_ROOT: where the target's packages are unpacked.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FINBACK_ROOT)
set(CMAKE_FIND_ROOT_PATH ${FINBACK_ROOT} ${FINBACK_ROOT}/usr)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
# The compiler's own headers and C library serve both builds; the rest comes from the root.
set(CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES ${FINBACK_ROOT}/usr/include ${FINBACK_ROOT}/usr/include/aarch64-linux-gnu)
set(CMAKE_EXE_LINKER_FLAGS_INIT "-L${FINBACK_ROOT}/usr/lib/aarch64-linux-gnu -Wl,-rpath-link,${FINBACK_ROOT}/usr/lib/aarch64-linux-gnu")
