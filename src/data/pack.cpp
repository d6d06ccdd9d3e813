#include "data/pack.h"

#include "core/clock.h"
#include "core/file.h"
#include "core/json.h"
#include "formats/hash.h"
#include "formats/megatron.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <limits>
#include <numeric>

namespace finback::data {
namespace {

using core::DType;
using core::Error;
using core::Exit;

// A file that grows and may be cut back to what was known to be good. Locked, so that two packs never share one.
class PartialFile {
 public:
  PartialFile(std::string path, std::uint64_t keep_bytes) : path_(std::move(path)) {
    fd_ = core::sys::open_for_write(path_, /*append=*/true, /*truncate=*/false);
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      throw Error(Exit::usage, "another pack is writing this output", path_, "wait for it, or give another --out");
    }
    if (::ftruncate(fd_, static_cast<off_t>(keep_bytes)) != 0) {
      const Error error = core::io_error("cut back", path_);
      ::close(fd_);
      throw error;
    }
  }
  ~PartialFile() { ::close(fd_); }
  PartialFile(const PartialFile&) = delete;
  void append(const void* data, std::size_t size) { core::sys::write_all(fd_, data, size, path_); }
  void sync() { core::sys::sync_file(fd_, path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
};

// How far a pack has come; all counts are of the whole job.
struct Position {
  std::int64_t file = 0, line = 1;
  std::uint64_t offset = 0;      // in that file, decompressed
  std::uint64_t text_bytes = 0;  // of the files before, and offset
  std::int64_t tokens = 0, documents = 0;
  std::int64_t open_tokens = 0;  // of the document that goes on in the next chunk
  std::int64_t empty_documents = 0, bad_lines = 0;
};

constexpr std::pair<const char*, std::int64_t Position::*> kSignedFields[] = {
    {"file", &Position::file},
    {"line", &Position::line},
    {"tokens", &Position::tokens},
    {"documents", &Position::documents},
    {"open_tokens", &Position::open_tokens},
    {"empty_documents", &Position::empty_documents},
    {"bad_lines", &Position::bad_lines},
};
constexpr std::pair<const char*, std::uint64_t Position::*> kUnsignedFields[] = {{"offset", &Position::offset},
                                                                                 {"text_bytes", &Position::text_bytes}};

std::string to_text(const Position& p, const std::string& job) {
  boost::json::object o{{"job", job}};
  for (const auto& [name, field] : kSignedFields) o[name] = p.*field;
  for (const auto& [name, field] : kUnsignedFields) o[name] = p.*field;
  return core::pretty_json(o);
}

// False if the file is not of this job, or not whole: then the pack begins anew.
bool read_position(const std::string& path, const std::string& job, Position& p) {
  if (!core::exists(path)) return false;
  try {
    const boost::json::value value = core::read_json_file(path);
    const boost::json::object& o = value.as_object();
    if (o.at("job").as_string() != job) return false;
    for (const auto& [name, field] : kSignedFields) {
      p.*field = o.at(name).to_number<std::int64_t>();
      if (p.*field < 0) return false;
    }
    for (const auto& [name, field] : kUnsignedFields) p.*field = o.at(name).to_number<std::uint64_t>();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

std::uint64_t size_or_zero(const std::string& path) { return core::exists(path) ? core::file_size(path) : 0; }

// What must be equal for a killed pack to go on: input files, tokenizer, options.
std::string job_of(const text::Tokenizer& tokenizer, const PackOptions& o) {
  formats::Xxh3 hash;
  const auto take = [&](std::string_view s) {
    const std::uint64_t n = s.size();
    hash.update(&n, sizeof n);
    hash.update(s.data(), s.size());
  };
  for (const std::string& path : o.inputs) {
    std::error_code ec;
    const auto time = std::filesystem::last_write_time(path, ec).time_since_epoch().count();
    take(fmt::format("{} {} {}", path, core::file_size(path), time));
  }
  take(fmt::format("{} {} {}", o.format, o.append_eos, o.skip_bad_lines));
  take(o.field);
  take(o.split_documents);
  for (const std::string& token : tokenizer.vocabulary().tokens) take(token);
  take(fmt::format("{} {}", tokenizer.vocabulary().merges.size(), tokenizer.eos_id()));
  return hash.digest128();
}

// A chunk on its way from text to ids.
struct Work {
  std::size_t file = 0;
  Chunk chunk;
  std::vector<std::int32_t> ids;
  std::vector<std::size_t> ends;  // how many ids stand before each end of a document
  std::int64_t bad_lines = 0;
  std::exception_ptr error;
};

void encode(const text::Tokenizer& tokenizer, const DocumentFormat& format, const std::string& path, Work& work) {
  work.ids.clear();
  work.ends.clear();
  work.bad_lines = 0;
  try {
    work.bad_lines = for_each_document(work.chunk, format, path, [&](std::string_view text, bool ends) {
      tokenizer.encode_into(text, /*allow_special=*/false, work.ids);
      if (ends) work.ends.push_back(work.ids.size());
    });
  } catch (...) {
    work.error = std::current_exception();
  }
}

class Job {
 public:
  Job(const text::Tokenizer& tokenizer, const PackOptions& options, core::Team& team, core::Progress* progress);
  ~Job();
  PackReport run();

 private:
  bool read_batch();
  void write(const Work& work);
  void save();
  void finish();
  void show();

  const text::Tokenizer& tokenizer_;
  const PackOptions& options_;
  core::Team& team_;
  core::Progress* progress_;
  const std::string job_, position_path_;
  const DType dtype_;
  std::vector<DocumentFormat> formats_;               // of each input
  std::uint64_t input_bytes_ = 0, bytes_before_ = 0;  // of all inputs; of those before the one being read

  Position at_;  // consistent between two batches: what was read is written
  bool resumed_ = false;
  std::unique_ptr<PartialFile> tokens_, lengths_;
  std::unique_ptr<ChunkReader> reader_;
  std::vector<Work> batch_;
  std::size_t batch_size_ = 0;
  std::vector<std::int32_t> out_, out_lengths_;
  std::vector<std::uint16_t> narrow_;
  double started_ = core::seconds_now(), saved_ = started_;
  std::uint64_t text_bytes_at_start_ = 0;
};

Job::Job(const text::Tokenizer& tokenizer, const PackOptions& options, core::Team& team, core::Progress* progress)
    : tokenizer_(tokenizer),
      options_(options),
      team_(team),
      progress_(progress),
      job_(job_of(tokenizer, options)),
      position_path_(options.output + ".pack.json"),
      dtype_(formats::token_dtype(tokenizer.vocab_size())),
      batch_(static_cast<std::size_t>(team.threads()) * 16) {
  std::vector<std::uint64_t> sizes;
  for (const std::string& path : options.inputs) {
    formats_.push_back(document_format(path, options));
    formats_.back().cut_documents = ends_pieces_at_line_breaks(tokenizer.vocabulary().pre_tokenizer);
    sizes.push_back(core::InputFile(path).size());  // each can be opened: better known now than after hours
    if (sizes.back() == 0) throw Error(Exit::bad_input, "the file is empty", path, "leave it out, or look how it was made");
    input_bytes_ += sizes.back();
  }
  const std::string tokens = options.output + ".bin.partial", lengths = options.output + ".lengths.partial";
  const auto token_bytes = [&] { return static_cast<std::uint64_t>(at_.tokens * core::size_of(dtype_)); };
  const auto length_bytes = [&] { return static_cast<std::uint64_t>(at_.documents) * sizeof(std::int32_t); };
  resumed_ = read_position(position_path_, job_, at_) && at_.file <= static_cast<std::int64_t>(sizes.size()) &&
             size_or_zero(tokens) >= token_bytes() && size_or_zero(lengths) >= length_bytes();
  if (!resumed_) at_ = {};
  for (std::int64_t f = 0; f < at_.file; ++f) bytes_before_ += sizes[static_cast<std::size_t>(f)];
  text_bytes_at_start_ = at_.text_bytes;
  core::make_directories(std::filesystem::absolute(options.output).parent_path().string());
  tokens_ = std::make_unique<PartialFile>(tokens, token_bytes());
  lengths_ = std::make_unique<PartialFile>(lengths, length_bytes());
  if (!resumed_) core::sys::remove_tree(position_path_);
}

// What no later pack can go on from is not left behind.
Job::~Job() {
  std::error_code ignored;
  if (!core::exists(position_path_))
    for (const auto& partial : {tokens_->path(), lengths_->path()}) std::filesystem::remove(partial, ignored);
}

// The next chunks of the input, from one or several files.
bool Job::read_batch() {
  for (batch_size_ = 0; batch_size_ < batch_.size() && at_.file < static_cast<std::int64_t>(options_.inputs.size());) {
    const auto file = static_cast<std::size_t>(at_.file);
    if (!reader_) reader_ = std::make_unique<ChunkReader>(options_.inputs[file], formats_[file], at_.offset, at_.line);
    Work& work = batch_[batch_size_];
    work.file = file;
    if (reader_->next(work.chunk)) {
      at_.text_bytes += reader_->offset() - at_.offset;
      at_.offset = reader_->offset();
      at_.line = reader_->line();
      ++batch_size_;
    } else {
      bytes_before_ += reader_->stream().size();
      reader_.reset();
      ++at_.file;
      at_.offset = 0;
      at_.line = 1;
    }
  }
  return batch_size_ > 0;
}

void Job::write(const Work& work) {
  constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();
  out_.clear();
  out_lengths_.clear();
  const auto take = [&](std::size_t begin, std::size_t end) {
    out_.insert(out_.end(), work.ids.begin() + static_cast<std::ptrdiff_t>(begin), work.ids.begin() + static_cast<std::ptrdiff_t>(end));
    at_.open_tokens += static_cast<std::int64_t>(end - begin);
    if (at_.open_tokens >= kMaxTokens)
      throw Error(Exit::bad_input,
                  fmt::format("a document of {} tokens and more, a token file holds less than 2^31 of them in one", at_.open_tokens),
                  options_.inputs[work.file], "divide the text with --split-documents");
  };
  std::size_t begin = 0;
  for (const std::size_t end : work.ends) {
    take(begin, end);
    begin = end;
    if (at_.open_tokens == 0) {
      ++at_.empty_documents;
      continue;
    }
    if (options_.append_eos) {
      out_.push_back(tokenizer_.eos_id());
      ++at_.open_tokens;
    }
    out_lengths_.push_back(static_cast<std::int32_t>(at_.open_tokens));
    at_.open_tokens = 0;
  }
  take(begin, work.ids.size());

  if (dtype_ == DType::u16) {
    narrow_.assign(out_.begin(), out_.end());
    tokens_->append(narrow_.data(), narrow_.size() * sizeof narrow_[0]);
  } else {
    tokens_->append(out_.data(), out_.size() * sizeof out_[0]);
  }
  lengths_->append(out_lengths_.data(), out_lengths_.size() * sizeof out_lengths_[0]);
  at_.tokens += static_cast<std::int64_t>(out_.size());
  at_.documents += static_cast<std::int64_t>(out_lengths_.size());
  at_.bad_lines += work.bad_lines;
}

void Job::save() {
  tokens_->sync();
  lengths_->sync();
  core::write_file_atomic(position_path_, to_text(at_, job_));
}

void Job::show() {
  if (!progress_) return;
  const std::uint64_t read = bytes_before_ + (reader_ ? reader_->stream().consumed() : 0);
  const double seconds = core::seconds_now() - started_, share = static_cast<double>(read) / static_cast<double>(input_bytes_);
  progress_->update(fmt::format("{:3.0f} %  {:.1f} million tokens of {} documents  {:.1f} MB/s", 100 * share,
                                1e-6 * static_cast<double>(at_.tokens), at_.documents,
                                1e-6 * static_cast<double>(at_.text_bytes - text_bytes_at_start_) / seconds));
}

// From partial files to the pair.
void Job::finish() {
  tokens_->sync();
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(at_.documents));
  core::InputFile(lengths_->path()).read(lengths.data(), lengths.size() * sizeof lengths[0], 0);
  std::vector<std::int64_t> documents(lengths.size() + 1);
  std::iota(documents.begin(), documents.end(), 0);
  core::AtomicFile index(options_.output + ".idx");
  formats::write_token_index(index, dtype_, lengths, documents);
  core::sys::remove_tree(options_.output + ".idx");  // an older one must never stand beside the new tokens
  core::sys::rename(tokens_->path(), options_.output + ".bin");
  index.commit();
  core::sys::remove_tree(position_path_);
}

PackReport Job::run() {
  while (read_batch()) {
    core::parallel_for(team_, static_cast<std::int64_t>(batch_size_), [&](std::int64_t i) {
      Work& work = batch_[static_cast<std::size_t>(i)];
      encode(tokenizer_, formats_[work.file], options_.inputs[work.file], work);
    });
    for (std::size_t i = 0; i < batch_size_; ++i) {
      if (batch_[i].error) std::rethrow_exception(batch_[i].error);
      write(batch_[i]);
    }
    show();
    if (core::seconds_now() - saved_ >= options_.seconds_between_saves) {
      save();
      saved_ = core::seconds_now();
    }
  }
  if (at_.documents == 0) {
    core::sys::remove_tree(position_path_);
    throw Error(Exit::bad_input, fmt::format("no text in the input ({} empty documents)", at_.empty_documents), options_.inputs[0],
                "give files that hold text");
  }
  finish();
  return {at_.documents, at_.tokens, at_.empty_documents, at_.bad_lines, at_.text_bytes, resumed_};
}

}  // namespace

DocumentFormat document_format(const std::string& path, const PackOptions& options) {
  DocumentFormat f;
  f.field = options.field;
  f.skip_bad_lines = options.skip_bad_lines;
  f.chunk_bytes = options.chunk_bytes;
  std::string_view name = path;
  if (name.ends_with(".zst")) name.remove_suffix(4);
  if (options.format == "jsonl" || (options.format == "auto" && name.ends_with(".jsonl"))) {
    f.format = Format::jsonl;
  } else if (options.format == "auto" && !name.ends_with(".txt")) {
    throw Error(Exit::usage, "the name does not tell the format (.txt, .jsonl, either with .zst)", path,
                "say --format text or --format jsonl");
  } else if (options.format != "auto" && options.format != "text") {
    throw Error(Exit::usage, fmt::format("unknown format '{}'", options.format), "--format", "use auto, text or jsonl");
  }
  using Split = DocumentFormat::Split;
  f.marker = options.split_documents;
  f.split = f.marker == "none"         ? Split::none
            : f.marker == "blank-line" ? Split::blank_line
            : f.marker == "line"       ? Split::line
                                       : Split::marker;
  if (f.marker.empty() || f.marker.size() > 1024)
    throw Error(Exit::usage, fmt::format("a marker of {} bytes", f.marker.size()), "--split-documents",
                "use none, blank-line, line, or a text of 1 to 1024 bytes");
  return f;
}

PackReport pack(const text::Tokenizer& tokenizer, const PackOptions& options, core::Team& team, core::Progress* progress) {
  if (options.inputs.empty()) throw Error(Exit::usage, "no input", "--in", "name at least one file");
  if (options.output.empty() || options.output.ends_with("/"))
    throw Error(Exit::usage, "no output", "--out", "give the path without .bin and .idx");
  if (options.append_eos && tokenizer.eos_id() < 0)
    throw Error(Exit::usage, "the tokenizer names no token that ends a text", "--tokenizer",
                "put a tokenizer_config.json beside it, or say --no-eos");
  return Job(tokenizer, options, team, progress).run();
}

}  // namespace finback::data
