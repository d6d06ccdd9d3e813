// One file per command. Each defines one function below, which adds its subcommand with its options, an example in the footer and
// a callback that does the work by calling a room; main.cpp lists them. A callback throws core::Error; main() prints it.
#pragma once

#include <CLI/CLI.hpp>

namespace finback::cli {

void add_train(CLI::App& app);
void add_tokenizer(CLI::App& app);
void add_data(CLI::App& app);
void add_init(CLI::App& app);
void add_convert(CLI::App& app);
void add_score(CLI::App& app);
void add_generate(CLI::App& app);
void add_inspect(CLI::App& app);
void add_verify(CLI::App& app);
void add_bench(CLI::App& app);
void add_bench_gemm(CLI::App& bench);
void add_bench_exchange(CLI::App& bench);
void add_bench_decode(CLI::App& bench);
void add_bench_prefill(CLI::App& bench);
void add_doctor(CLI::App& app);
void add_plan(CLI::App& app);

}  // namespace finback::cli
