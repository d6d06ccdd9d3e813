#include "model/mtp.h"

#include "model/linear.h"

namespace finback::model {

using core::ConstMat;
using core::Mat;

void MtpActivations::take(const Stores& stores, const ModelConfig& m, std::int64_t T) {
  const auto n = static_cast<std::size_t>(T);
  ids = {stores.kept.take_array<std::int32_t>(T), n};
  targets = {stores.kept.take_array<std::int32_t>(T), n};
  embedding_TD = stores.again.take_mat(stores.precision.storage, T, m.hidden_size);
  joined_TX = stores.again.take_mat(stores.precision.storage, T, 2 * m.hidden_size);
}

void MtpGradients::take(core::Arena& work, const ModelConfig& m, const Precision& precision, std::int64_t T) {
  dnormed_TD = work.take_mat(precision.storage, T, m.hidden_size);
  djoined_TX = work.take_mat(precision.storage, T, 2 * m.hidden_size);
  dembedding_TD = work.take_mat(precision.storage, T, m.hidden_size);
}

void mtp_shift(std::span<const std::int32_t> inputs, std::span<const std::int32_t> targets, std::int64_t seq_len, std::int64_t k,
               MtpActivations& acts) {
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    const std::int64_t i = static_cast<std::int64_t>(t) % seq_len;
    const std::size_t end = t - static_cast<std::size_t>(i) + static_cast<std::size_t>(seq_len);  // one past this sequence
    const std::size_t at = t + static_cast<std::size_t>(k);
    // The token after the last input is known as that position's target, unless it is not scored.
    acts.ids[t] = at < end ? inputs[at] : at == end && targets[end - 1] >= 0 ? targets[end - 1] : 0;
    acts.targets[t] = at < end ? targets[at] : -1;
  }
}

namespace {
void embed_and_normalise(const Run& run, const ModelSlabs& model, const BlockSlabs& s, ConstMat hidden, MtpActivations& acts) {
  const std::int64_t D = run.config.hidden_size;
  const double eps = run.config.rms_norm_eps;
  run.k().embedding_forward(run.ctx, run.weight(model.embedding), acts.ids, acts.embedding_TD);
  run.k().rms_norm_forward(run.ctx, acts.embedding_TD, run.weight(s.enorm), eps, acts.joined_TX.columns(0, D));
  run.k().rms_norm_forward(run.ctx, hidden, run.weight(s.hnorm), eps, acts.joined_TX.columns(D, D));
}
}  // namespace

void mtp_join(const Run& run, const ModelSlabs& model, const BlockSlabs& s, ConstMat hidden, MtpActivations& acts, Mat x) {
  embed_and_normalise(run, model, s, hidden, acts);
  linear_forward(run, acts.joined_TX, s.eh_proj, {}, x);
}

void mtp_join_backward_input(const Run& run, const ModelSlabs& model, const BlockSlabs& s, ConstMat hidden, MtpActivations& acts,
                             ConstMat dx, MtpGradients& g, ConstMat addend, Mat dhidden) {
  if (run.recompute()) embed_and_normalise(run, model, s, hidden, acts);
  const std::int64_t D = run.config.hidden_size;
  const double eps = run.config.rms_norm_eps;
  linear_backward_input(run, dx, s.eh_proj, {}, g.djoined_TX);
  run.k().rms_norm_backward_input(run.ctx, g.djoined_TX.columns(0, D), acts.embedding_TD, run.weight(s.enorm), eps, {}, g.dembedding_TD);
  run.k().rms_norm_backward_input(run.ctx, g.djoined_TX.columns(D, D), hidden, run.weight(s.hnorm), eps, addend, dhidden);
}

void mtp_join_backward_weight(const Run& run, const BlockSlabs& s, ConstMat hidden, const MtpActivations& acts, ConstMat dx,
                              const MtpGradients& g) {
  const std::int64_t D = run.config.hidden_size;
  const double eps = run.config.rms_norm_eps;
  linear_backward_weight(run, dx, acts.joined_TX, s.eh_proj);
  run.k().rms_norm_backward_weight(run.ctx, g.djoined_TX.columns(0, D), acts.embedding_TD, eps, run.gradient(s.enorm));
  run.k().rms_norm_backward_weight(run.ctx, g.djoined_TX.columns(D, D), hidden, eps, run.gradient(s.hnorm));
}

}  // namespace finback::model
