// finback: the command line. Every command's file stands beside this one.
#include "cli/command.h"
#include "cli/output.h"
#include "comm/transport.h"
#include "core/error.h"
#include "core/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <new>

namespace {

// Opens what the caller closed of standard input, output and error as nothing; else the next file opened, such as a model being
// written, would take the number and with it what is printed.
void open_standard_streams() {
  int fd;
  do fd = ::open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= 2);
  if (fd > 2) ::close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  using finback::core::Error;
  using finback::core::Exit;
  open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is a write error like any other
  CLI::App app{"finback trains, evaluates and serves language models of the DeepSeek-V3 class."};
  app.set_version_flag("--version", "finback " FINBACK_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(36);
  finback::cli::add_train(app);
  finback::cli::add_init(app);
  finback::cli::add_convert(app);
  finback::cli::add_score(app);
  finback::cli::add_generate(app);
  finback::cli::add_bench(app);
  finback::cli::add_plan(app);
  finback::cli::add_data(app);
  finback::cli::add_doctor(app);
  finback::cli::add_tokenizer(app);
  finback::cli::add_inspect(app);
  finback::cli::add_verify(app);
  try {
    app.parse(argc, argv);
    finback::cli::write_output("");  // the last of what was printed
    return static_cast<int>(Exit::done);
  } catch (const CLI::RuntimeError& e) {  // a command that ended otherwise than done, and has said why
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? static_cast<int>(Exit::done) : static_cast<int>(Exit::usage);
  } catch (const finback::comm::Reported& e) {  // another rank says why
    return static_cast<int>(e.code());
  } catch (const Error& e) {
    finback::core::log_line(fmt::format("error: {}", e.what()));
    return static_cast<int>(e.code());
  } catch (const std::bad_alloc&) {
    finback::core::log_line("error: out of memory, use a smaller model, micro_batch or seq_len");
    return static_cast<int>(Exit::failed);
  } catch (const std::exception& e) {
    finback::core::log_line(fmt::format("error: {}", e.what()));
    return static_cast<int>(Exit::failed);
  }
}
