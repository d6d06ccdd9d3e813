// A run file (RUN.toml): what to train, on what, and how. Every key is declared once, in the table of run_config.cpp, with its
// default, its range and its meaning; reading, --set, --check and the copy kept beside the run all walk that table.
#pragma once

#include "model/precision.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace finback::train {

struct RunConfig {
  struct {
    std::string config;
  } model;

  struct {
    std::vector<std::string> train;
    std::vector<double> weights;
    std::string valid, tokenizer;
    std::int64_t seq_len = 256;
    double fim_rate = 0, token_split_rate = 0;
  } data;

  struct {
    std::int64_t steps = 1000, seed = 1, global_batch = 16, micro_batch = 4;
    std::int64_t ramp_from = 0, ramp_steps = 0;  // the batch grows from ramp_from to global_batch over ramp_steps
    std::string precision = "bf16", activation_storage = "bf16";
    std::int64_t threads = 0;
  } train;

  struct Fp8Table {
    std::int64_t accumulate_bits = 0;
    bool promote = true;
    std::string gradient_format = "e4m3", gradient_tile = "1x128";
    bool power_of_two_scales = false;
    bool operator==(const Fp8Table&) const = default;
  } fp8;

  struct {
    double lr = 1e-3, min_lr = 1e-4;
    std::int64_t warmup_steps = 50, constant_steps = 0, decay_steps = 0, last_steps = 0;
    double last_lr = 0;
    std::string schedule = "cosine";
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, grad_clip = 1, ema_decay = 0;
    std::string moments = "bf16";
  } optimizer;

  struct {
    double bias_update_speed = 1e-3;
    std::int64_t bias_freeze_step = -1;
    double sequence_balance_alpha = 1e-4;
    double max_imbalance = 1.5;
  } moe;

  struct {
    double loss_weight = 0.3, loss_weight_late = 0.1;
    std::int64_t late_step = -1;
  } mtp;

  struct {
    std::int64_t pp = 1, dp = 1, ep = 1;
    std::string schedule = "1f1b";
  } parallel;

  struct {
    std::int64_t every = 200, keep = 2, tries = 3;
    std::string dtype = "auto";
  } checkpoint;

  struct {
    std::int64_t every = 200, tokens = 0;
  } eval;

  struct {
    std::int64_t max_bad_steps = 5, recheck_every = 0;
    double spike_zscore = 6;
    std::int64_t spike_window = 100;
    std::string spike_action = "log";
    std::int64_t max_rollbacks = 3;
  } guard;

  struct {
    std::string dir;
    bool tensorboard = true;
    double report_seconds = 30;
  } output;
};

// Reads `path` and applies `overrides` ("section.key=value"; a value is TOML, or else a plain string). Throws Error(usage) with file
// and line for an unknown key (naming the nearest one), a wrong type, a value out of its range, or values that disagree.
RunConfig read_run_config(const std::string& path, std::span<const std::string> overrides = {});

// The same from text, for tests; `where` stands for the path in errors.
RunConfig parse_run_config(std::string_view text, const std::string& where, std::span<const std::string> overrides = {});

// The types and the FP8 switches that the run file names.
model::Precision precision_of(const RunConfig& config);
core::DType moments_of(const RunConfig& config);

// One line a key: value, default, range and meaning, by section.
std::string describe(const RunConfig& config);

// A run file that reads back as `config`, every key written.
std::string to_toml(const RunConfig& config);

// "optimizer.lr: 0.002, now 0.001" for each value that differs.
std::vector<std::string> differences(const RunConfig& before, const RunConfig& now);

// "section.key" of every key, in order.
std::vector<std::string> run_config_keys();

}  // namespace finback::train
