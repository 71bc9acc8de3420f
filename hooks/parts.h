// The parts of a multimodal model. A row that blocks of several parts have means the same in each,
// on axes of its own: attn.hook_z is [batch pos head d_head] of text, [image patch head d_head] of
// images and [audio frame head d_head] of sound.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "bezel/hooks/hook_points.h"

namespace bezel::hooks {

enum class Part : std::uint8_t { kText, kVision, kAudio };
inline constexpr std::size_t kNParts = 3;

using Table = std::array<HookPoint, kNHookPoints>;

namespace table {

constexpr HookPoint in_vision(HookPoint point) {
  point.axes = point.axes.with(Axis::kBatch, Axis::kImage)
                   .with(Axis::kPos, Axis::kPatch)
                   .with(Axis::kQPos, Axis::kQPatch)
                   .with(Axis::kKPos, Axis::kKPatch)
                   .with(Axis::kDModel, Axis::kDVision);
  return point;
}

constexpr HookPoint in_audio(HookPoint point) {
  const bool by_query = point.name == "attn.hook_attn_scores" || point.name == "attn.hook_pattern";
  if (by_query) {  // each chunk of frames sees its own context, in float32
    point.axes = "audio head chunk q_frame k_frame";
    point.type = ValueType::kWide;
  }
  point.axes = point.axes.with(Axis::kBatch, Axis::kAudio)
                   .with(Axis::kPos, Axis::kFrame)
                   .with(Axis::kKvHead, Axis::kHead)
                   .with(Axis::kDModel, Axis::kDAudio);
  return point;
}

constexpr Table of_blocks(HookPoint (*in_part)(HookPoint)) {
  Table points = kRows;
  for (HookPoint& point : points) {
    if (is_in_layer(point.where)) point = in_part(point);
  }
  return points;
}

inline constexpr std::array<Table, kNParts> kByPart = {kRows, of_blocks(in_vision),
                                                       of_blocks(in_audio)};

}  // namespace table

/// The table as the blocks of a part have it.
constexpr const Table& table_of(Part part) {
  return table::kByPart[static_cast<std::size_t>(part)];
}

}  // namespace bezel::hooks
