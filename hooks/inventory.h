// Which hook points one model has: the table, evaluated for each of its layers.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "bezel/hooks/hook_points.h"
#include "bezel/hooks/parts.h"

namespace bezel::hooks {

using RowSet = std::bitset<kNHookPoints>;

/// Length of each axis, indexed by Axis; 0 where the input decides.
using AxisSizes = std::array<std::int64_t, kNAxes>;

/// One value of one model: a row of the table at a site.
struct SiteRow {
  int site;
  int row;
  /// As the table has it; Inventory::point knows the axes of its part.
  const HookPoint& point() const { return kHookPoints[row]; }
  bool operator==(const SiteRow&) const = default;
};

/// A place in the model where rows of the table live: the model itself, or one block.
struct Site {
  std::string prefix;        // "", "blocks.3." or "vision_encoder.blocks.3."
  std::optional<int> layer;  // of a block, in its part
  Part part = Part::kText;
  /// Why rows of a kind do not exist here, indexed by Where; empty where they do.
  std::array<std::string, kNWheres> absent;
  AxisSizes sizes{};
  /// Rows whose value is another's, handed on unchanged unless an edit stands at the row.
  std::unordered_map<int, SiteRow> handed_on;
  /// Rows whose values stand side by side in one tensor, and together are all of it.
  std::vector<RowSet> side_by_side;
  /// Rows whose value is a slice of another's.
  std::unordered_map<int, SiteRow> slice_of;

  bool is_text() const { return part == Part::kText; }
  bool has(const HookPoint& point) const {
    return absent[static_cast<std::size_t>(point.where)].empty();
  }
};

class Inventory {
 public:
  /// Site 0 is the model; sites 1 … n are its text blocks; those of the encoders follow.
  explicit Inventory(std::vector<Site> sites);

  const std::vector<Site>& sites() const { return sites_; }
  const Site& site(int index) const { return sites_[index]; }
  /// Every value that exists, each after those that it is computed from.
  const std::vector<SiteRow>& rows() const { return rows_; }
  /// A value's row with the axes and the type that it has there.
  const HookPoint& point(SiteRow at) const { return table_of(sites_[at.site].part)[at.row]; }
  /// The part that a value belongs to, in a block or outside of one.
  Part part(SiteRow at) const {
    const Where where = at.point().where;
    if (is_of_images(where)) return Part::kVision;
    return is_of_sound(where) ? Part::kAudio : sites_[at.site].part;
  }
  /// The text block that a value belongs to; nullopt for the model's and the encoders' values.
  std::optional<int> text_layer(SiteRow at) const {
    const Site& where = sites_[at.site];
    return where.is_text() ? where.layer : std::nullopt;
  }
  /// Full name: "blocks.3.attn.hook_z".
  const std::string& name(SiteRow at) const { return names_[at.site][at.row]; }
  /// Throws UnknownHookError (with the nearest names) or HookNotApplicableError (with the reason).
  SiteRow resolve(const std::string& name) const;
  /// The three existing names nearest to this one, as "a, b, c".
  std::string near_misses(const std::string& name) const;

 private:
  std::vector<Site> sites_;
  std::vector<SiteRow> rows_;
  std::vector<std::array<std::string, kNHookPoints>> names_;
  std::unordered_map<std::string, SiteRow> by_name_;  // also the names that are absent
};

/// Sizes of a value's axes with the input's sizes filled in.
std::vector<std::int64_t> shape_of(const HookPoint& point, const Site& site,
                                   const AxisSizes& input);

}  // namespace bezel::hooks
