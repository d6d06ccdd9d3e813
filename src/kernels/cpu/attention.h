// The backward half of attention, compiled apart from the forward half (attention.cpp).
#pragma once

#include "kernels/kernels.h"

namespace finback::kernels::FB_ISA {

void attention_backward(const Context&, ConstMat q, ConstMat kv, ConstMat k_pe, ConstMat o, ConstMat lse, ConstMat d_o,
                        std::span<const Segment>, const AttentionShape&, Mat dq, Mat dkv, Mat dk_pe);

}  // namespace finback::kernels::FB_ISA
