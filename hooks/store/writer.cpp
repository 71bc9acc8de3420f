#include "bezel/hooks/store/writer.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "bezel/hooks/error.h"
#include "bezel/hooks/store/lanes.h"
#include "bezel/hooks/store/shard_writer.h"

namespace bezel::store {
namespace {

constexpr std::size_t kMaxUnsealed = 2;  // one that is filled while one is sealed

RunId id_of(const WriterOptions& options) {
  if (options.n_ranks == 0 || options.rank >= options.n_ranks)
    throw ArgumentError("rank " + std::to_string(options.rank) + " of " +
                        std::to_string(options.n_ranks) + "; wanted 0 ≤ rank < n_ranks");
  if (options.n_ranks > 1 && options.run.empty())
    throw ArgumentError("a run of several ranks needs a name that they share: WriterOptions::run");
  return {.run = options.run.empty() ? make_run_name() : options.run,
          .rank = options.rank,
          .n_ranks = options.n_ranks};
}

}  // namespace

class Writer::State {
 public:
  State(const std::filesystem::path& folder, const Manifest& manifest, WriterOptions options,
        std::shared_ptr<Io> io)
      : folder_(folder),
        manifest_(checked(manifest)),
        datasets_(datasets_of(manifest_)),
        options_(std::move(options)),
        io_(std::move(io)),
        n_workers_(std::max<std::size_t>(options_.n_workers, 1)),
        claim_(claim(*io_, folder_, manifest_, id_of(options_), options_.start,
                     options_.repair_progress)),
        lanes_(n_workers_ + 1, options_.queue_bytes) {
    for (std::size_t i = 0; i < datasets_.size(); ++i) columns_[datasets_[i].name] = i;
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  State(State&&) = delete;
  State& operator=(State&&) = delete;
  ~State() {
    lanes_.stop();
    for (const auto& [number, shard] : unsealed_) shard->discard();
  }

  const Claim& claimed() const { return claim_; }
  Rows rows_of(std::uint64_t shard) const { return rows_of_shard(manifest_, shard); }

  void begin(std::uint64_t number) {
    require_full();
    if (!claim_.lock) throw ArgumentError("begin(): the writer is finished");
    if (!std::ranges::binary_search(claim_.todo, number) || begun_.contains(number))
      throw ArgumentError("shard " + std::to_string(number) +
                          " is not among those that this writer has to write; see todo()");
    lanes_.wait_until([this] { return n_unsealed_ < kMaxUnsealed; });
    auto shard = std::make_shared<ShardWriter>(*io_, folder_, manifest_, number, options_.rank);
    ++n_unsealed_;
    begun_.insert(number);
    {
      const std::lock_guard lock(unsealed_mutex_);
      unsealed_[number] = shard;
    }
    open_ = std::move(shard);
    n_left_.clear();
    for (const Dataset& dataset : datasets_)
      n_left_.push_back(n_entries(dataset, rows_of(number).n));
  }

  void put(const std::string& name, std::span<const std::byte> rows,
           std::shared_ptr<const void> owner) {
    const std::size_t column = column_of(name, rows.size());
    lanes_.submit(column % n_workers_, rows.size(),
                  [this, shard = open_, column, rows, owner = std::move(owner)] {
                    if (shard->write(column, rows))
                      lanes_.submit(n_workers_, 0, [this, shard] { seal(*shard); });
                  });
    n_left_[column] -= rows.size() / datasets_[column].row_bytes;
  }

  void finish() {
    require_full();
    open_.reset();
    lanes_.drain();
    if (claim_.journal && begun_.size() == claim_.todo.size()) claim_.journal->end();
    claim_.lock.reset();
  }

 private:
  void require_full() const {
    if (open_ && std::ranges::any_of(n_left_, [](std::uint64_t n) { return n > 0; }))
      throw ArgumentError(shard_name(open_->shard()) +
                          ": has rows to come, or a value per shard; another is begun, or the " +
                          "writer finished, after all of them");
  }

  // Its place, after the rows were found to be what the open shard waits for.
  std::size_t column_of(const std::string& name, std::size_t n_bytes) const {
    const auto found = columns_.find(name);
    if (!open_) throw ArgumentError("put(\"" + name + "\"): no shard is begun");
    if (found == columns_.end())
      throw ArgumentError("\"" + name + "\" is neither a value of this store nor a label");
    const Dataset& dataset = datasets_[found->second];
    const std::uint64_t left = n_left_[found->second];
    if (n_bytes % dataset.row_bytes != 0 || n_bytes / dataset.row_bytes > left)
      throw ArgumentError("\"" + name + "\": " + std::to_string(n_bytes) + " bytes; wanted " +
                          (dataset.per_shard ? "entries" : "rows") + " of " +
                          std::to_string(dataset.row_bytes) + " bytes, at most " +
                          std::to_string(left) + " of them in this shard");
    return found->second;
  }

  // On the lane behind the workers', one shard after the other.
  void seal(ShardWriter& shard) {
    const auto recorded = claim_.recorded.find(shard.shard());
    const bool is_recorded = recorded != claim_.recorded.end();
    const Record record = shard.seal(is_recorded ? std::optional(recorded->second) : std::nullopt);
    if (!is_recorded) claim_.journal->append(record);
    {
      const std::lock_guard lock(unsealed_mutex_);
      unsealed_.erase(record.shard);
    }
    --n_unsealed_;
    progress_.shards += 1;
    progress_.rows += record.n_rows;
    progress_.bytes += record.bytes;
    progress_.shards_planned = claim_.todo.size();
    if (options_.progress) options_.progress(progress_);
  }

  std::filesystem::path folder_;
  Manifest manifest_;
  std::vector<Dataset> datasets_;
  WriterOptions options_;
  std::shared_ptr<Io> io_;
  std::size_t n_workers_;
  Claim claim_;
  std::map<std::string, std::size_t, std::less<>> columns_;  // place in datasets_of()
  std::vector<std::uint64_t> n_left_;  // entries of each column that the open shard waits for
  std::shared_ptr<ShardWriter> open_;
  std::set<std::uint64_t> begun_;
  std::atomic<std::size_t> n_unsealed_ = 0;
  std::mutex unsealed_mutex_;
  std::map<std::uint64_t, std::shared_ptr<ShardWriter>> unsealed_;
  Progress progress_;
  Lanes lanes_;  // last: its threads use all of the above
};

Writer::Writer(const std::filesystem::path& folder, const Manifest& manifest, WriterOptions options,
               std::shared_ptr<Io> io)
    : state_(std::make_unique<State>(folder, manifest, std::move(options), std::move(io))) {}

Writer::~Writer() = default;

const std::vector<std::uint64_t>& Writer::todo() const { return state_->claimed().todo; }
Rows Writer::rows_of(std::uint64_t shard) const { return state_->rows_of(shard); }
std::uint64_t Writer::bytes_needed() const { return state_->claimed().bytes_needed; }
void Writer::begin(std::uint64_t shard) { state_->begin(shard); }

void Writer::put(const std::string& name, std::span<const std::byte> rows,
                 std::shared_ptr<const void> owner) {
  state_->put(name, rows, std::move(owner));
}

void Writer::put(const std::string& name, std::vector<std::byte> rows) {
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(rows));
  const std::span<const std::byte> bytes(*owner);
  state_->put(name, bytes, std::move(owner));
}

void Writer::finish() { state_->finish(); }

}  // namespace bezel::store
