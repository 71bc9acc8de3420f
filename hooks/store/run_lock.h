// LOCK.<rank>: one writer for each rank, and one run in a folder at a time. The lock is the
// system's and goes with its process; what the file says is for people, and for ranks of one run to
// know each other.
#pragma once

#include <memory>
#include <string>

#include "bezel/hooks/store/io.h"

namespace bezel::store {

/// Which writer of which run.
struct RunId {
  std::string run;  // equal for all ranks of one run, and no other
  std::uint64_t rank = 0, n_ranks = 1;
};

/// A name that no other run of a single writer has.
std::string make_run_name();

/// Throws StoreError if another run writes in the folder. Takes nothing.
void refuse_other_runs(Io& io, const std::filesystem::path& folder, const RunId& id);

/// Takes this rank's lock; StoreError if another holds it. It lasts as long as the file is open.
std::unique_ptr<File> take_lock(Io& io, const std::filesystem::path& folder, const RunId& id);

/// Whether a rank of this run took its lock at some time.
bool has_begun(Io& io, const std::filesystem::path& folder, const RunId& id);

}  // namespace bezel::store
