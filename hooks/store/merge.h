// Several stores into one: of one manifest that hold different rows, or of one corpus that hold
// different names (the stages of a model that is split by layers).
#pragma once

#include <functional>
#include <vector>

#include "bezel/hooks/store/writer.h"

namespace bezel::store {

/// Writes `out` from the sources, every block compared with its checksum on the way. What a started
/// merge has written stays: the same call goes on. Shards that the sources lack stay open. Throws
/// StoreError for rows or names that two sources hold, and for manifests that do not fit, naming
/// the field. Of the requests only "hooks" may differ, which are joined.
void merge(const std::vector<std::filesystem::path>& sources, const std::filesystem::path& out,
           const std::function<void(const Progress&)>& progress = {},
           const std::shared_ptr<Io>& io = make_posix_io());

}  // namespace bezel::store
