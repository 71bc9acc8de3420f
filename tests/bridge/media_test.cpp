// Images, videos and sound as they are checked and laid out for the encoders.
#include "bezel/bridge/media.h"

#include <algorithm>
#include <functional>
#include <set>

#include "bezel/hooks/error.h"
#include "tests/bridge/tiny_media.h"

namespace bezel::bridge {
namespace {

using Patches = std::set<std::int64_t>;

const at::TensorOptions kFloat64 = at::TensorOptions(at::kDouble);

Images prepared_images(const Media& media, const ModelSpec& spec = seeing_spec()) {
  return prepare_media(media, spec, kFloat64).images;
}

Media images_of(const at::Tensor& positions) {
  auto shape = positions.sizes().vec();
  shape.back() = kPatchWidth;
  return {.pixel_values = at::rand(shape), .image_position_ids = positions};
}

// The patches of each soft token, found by looking at every place of every square: image by image,
// square rows from the top, squares from the left.
std::vector<Patches> squares_by_loops(const at::Tensor& positions, std::int64_t pool) {
  std::vector<Patches> squares;
  const auto place = positions.accessor<std::int64_t, 3>();
  const std::int64_t n_patches = positions.size(1), side = positions.max().item<std::int64_t>() + 1;
  for (std::int64_t image = 0; image < positions.size(0); ++image) {
    for (std::int64_t row = 0; row < side; row += pool) {
      for (std::int64_t column = 0; column < side; column += pool) {
        Patches patches;
        for (std::int64_t patch = 0; patch < n_patches; ++patch) {
          const auto x = place[image][patch][0], y = place[image][patch][1];
          const bool inside = x >= column && x < column + pool && y >= row && y < row + pool;
          if (inside) patches.insert(image * n_patches + patch);
        }
        if (!patches.empty()) squares.push_back(patches);
      }
    }
  }
  return squares;
}

std::vector<Patches> squares_of(const Images& images) {
  std::vector<Patches> squares;
  for (const at::Tensor& soft : images.patches_of_soft.unbind(0)) {
    const auto flat = soft.contiguous();
    const auto* patches = flat.const_data_ptr<std::int64_t>();
    squares.emplace_back(patches, patches + flat.numel());
  }
  return squares;
}

TEST(Media, EachSoftTokenHasThePatchesOfItsSquareInWhateverOrderTheyCome) {
  at::manual_seed(31);
  for (int trial = 0; trial < 20; ++trial) {
    const auto positions = at::stack({shuffled_grid(4, 2, 24), shuffled_grid(2, 6, 24),
                                      shuffled_grid(4, 4, 24), shuffled_grid(6, 4, 24)});
    const Images images = prepared_images(images_of(positions));
    EXPECT_EQ(squares_of(images), squares_by_loops(positions, kPool));
    EXPECT_EQ(images.n_of_images, 2 + 3 + 4 + 6);
    EXPECT_EQ(images.n_of_videos, 0);
  }
}

TEST(Media, PaddingMayStandAnywhere) {
  at::manual_seed(32);
  const auto shuffled = shuffled_grid(4, 2, 12).index_select(0, at::randperm(12, at::kLong));
  const auto positions = at::stack({shuffled, shuffled_grid(2, 2, 12)});
  const Images images = prepared_images(images_of(positions));
  EXPECT_EQ(squares_of(images), squares_by_loops(positions, kPool));
  EXPECT_TRUE(at::equal(images.valid, positions.select(-1, 0) >= 0));
}

TEST(Media, WithoutAnEncoderEveryValidPatchIsASoftTokenInTheOrderTheyCome) {
  at::manual_seed(33);
  const auto positions = at::stack({shuffled_grid(3, 2, 8), shuffled_grid(1, 4, 8)});
  const Images images = prepared_images(images_of(positions), unified_spec());
  EXPECT_EQ(images.n_of_images, 10);
  std::vector<Patches> in_order;
  for (const std::int64_t first : {0, 8}) {
    for (std::int64_t i = 0; i < (first == 0 ? 6 : 4); ++i) in_order.push_back({first + i});
  }
  EXPECT_EQ(squares_of(images), in_order);
}

TEST(Media, FramesOfVideosStandBehindImagesPaddedToTheSameNumberOfPatches) {
  const ModelSpec spec = seeing_spec();
  const Media media = tiny_media(spec);
  const Images images = prepared_images(media);
  ASSERT_EQ(images.pixels.sizes(), (at::IntArrayRef{4, 10, kPatchWidth}));
  EXPECT_EQ(images.pixels.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(images.pixels.narrow(0, 0, 2), media.pixel_values));
  EXPECT_TRUE(at::equal(images.pixels.narrow(0, 2, 2).narrow(1, 0, 4),
                        media.pixel_values_videos.squeeze(0)));
  EXPECT_TRUE(at::equal(images.positions.narrow(0, 2, 2).narrow(1, 0, 4),
                        media.video_position_ids.squeeze(0)));
  EXPECT_TRUE((images.positions.narrow(0, 2, 2).narrow(1, 4, 6) == -1).all().item<bool>());
  EXPECT_EQ(images.n_of_images, 3);
  EXPECT_EQ(images.n_of_videos, 2);
  // More patches in a frame than in an image: the images are padded.
  Media swapped{.pixel_values = media.pixel_values_videos.squeeze(0),
                .image_position_ids = media.video_position_ids.squeeze(0),
                .pixel_values_videos = media.pixel_values.unsqueeze(0),
                .video_position_ids = media.image_position_ids.unsqueeze(0)};
  const Images other = prepared_images(swapped);
  EXPECT_EQ(other.pixels.size(1), 10);
  EXPECT_EQ(other.n_of_images, 2);
  EXPECT_EQ(other.n_of_videos, 3);
}

TEST(Media, PixelsAreKeptWideInABfloat16ModelAndSoundIsNot) {
  const ModelSpec spec = hearing_spec();
  const auto prepared = prepare_media(tiny_media(spec), spec, at::TensorOptions(at::kBFloat16));
  EXPECT_EQ(prepared.images.pixels.scalar_type(), at::kFloat);
  EXPECT_EQ(prepared.sound.features.scalar_type(), at::kBFloat16);
}

TEST(Media, AFrameOfTheEncoderIsHeardWhereItsFirstMelFrameIs) {
  const ModelSpec spec = hearing_spec();
  for (const std::int64_t n_valid : {1, 2, 4, 5, 13, 20, 21}) {
    Media media = tiny_media(spec);
    media.input_features_mask[1].zero_().narrow(0, 0, n_valid).fill_(1);
    const Sound sound = prepare_media(media, spec, kFloat64).sound;
    ASSERT_EQ(sound.soft_valid.sizes(), (at::IntArrayRef{2, 6}));  // 21 → 11 → 6
    std::int64_t n_soft = 6;
    for (std::int64_t frame = 0; frame < 6; ++frame) {
      const bool heard = 4 * frame < n_valid;
      EXPECT_EQ(sound.soft_valid[1][frame].item<bool>(), heard) << n_valid << " " << frame;
      n_soft += heard ? 1 : 0;
    }
    EXPECT_EQ(sound.n_soft, n_soft);
  }
}

TEST(Media, RawFramesAreSoftTokensThemselves) {
  const ModelSpec spec = unified_spec();
  const Media media = tiny_media(spec);
  const Sound sound = prepare_media(media, spec, kFloat64).sound;
  EXPECT_TRUE(at::equal(sound.soft_valid, media.input_features_mask.to(at::kBool)));
  EXPECT_EQ(sound.n_soft, 10);
}

TEST(Media, WithoutAMaskEveryFrameOfSoundIsValid) {
  const ModelSpec spec = hearing_spec();
  Media media = tiny_media(spec);
  media.input_features_mask.reset();
  const Sound sound = prepare_media(media, spec, kFloat64).sound;
  EXPECT_TRUE(sound.valid.all().item<bool>());
  EXPECT_EQ(sound.n_soft, 12);
}

TEST(Media, AMaskMayBeOfAnyDtype) {
  const ModelSpec spec = hearing_spec();
  const Sound want = prepare_media(tiny_media(spec), spec, kFloat64).sound;
  for (const auto type : {at::kBool, at::kInt, at::kFloat}) {
    Media media = tiny_media(spec);
    media.input_features_mask = media.input_features_mask.to(type);
    EXPECT_TRUE(at::equal(prepare_media(media, spec, kFloat64).sound.valid, want.valid)) << type;
  }
}

// --- what is refused -----------------------------------------------------------------------------

struct Refusal {
  std::string what;
  std::function<void(Media&)> damage;
};

class RefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesTheArgumentWhatItIsAndWhatItShouldBe) {
  const ModelSpec spec = hearing_spec();
  Media media = tiny_media(spec);
  GetParam().damage(media);
  try {
    prepare_media(media, spec, kFloat64);
    ADD_FAILURE() << "it was taken";
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find(GetParam().what), std::string::npos) << error.what();
  }
}

// One number elsewhere.
at::Tensor with(const at::Tensor& given, at::IntArrayRef place, double value) {
  auto changed = given.clone();
  auto at_place = changed;
  for (const auto i : place) at_place = at_place[i];
  at_place.fill_(value);
  return changed;
}

const std::vector<Refusal> kRefusals = {
    {"pixel_values is Double [2, 10, 11]; wanted floats [image patch d_patch] with d_patch = 12",
     [](Media& m) { m.pixel_values = m.pixel_values.narrow(-1, 0, 11); }},
    {"pixel_values is Double [10, 12]; wanted floats",
     [](Media& m) { m.pixel_values = m.pixel_values[0]; }},
    {"pixel_values is Long", [](Media& m) { m.pixel_values = m.pixel_values.to(at::kLong); }},
    {"pixel_values is Double [0, 10, 12]; wanted",
     [](Media& m) { m.pixel_values = m.pixel_values.narrow(0, 0, 0); }},
    {"pixel_values Double [2, 10, 12] holds NaN or infinite numbers; wanted finite ones",
     [](Media& m) {
       m.pixel_values = with(m.pixel_values, {1, 2, 3}, std::nan(""));
     }},
    {"pixel_values is missing beside image_position_ids", [](Media& m) { m.pixel_values.reset(); }},
    {"image_position_ids is missing; wanted int64 [image patch 2] beside pixel_values",
     [](Media& m) { m.image_position_ids.reset(); }},
    {"image_position_ids is Long [2, 9, 2]; wanted int64 [image patch 2] for pixel_values",
     [](Media& m) { m.image_position_ids = m.image_position_ids.narrow(1, 0, 9); }},
    {"image_position_ids is Float",
     [](Media& m) { m.image_position_ids = m.image_position_ids.to(at::kFloat); }},
    {"image_position_ids run from -1 to 9; wanted 0 to 8, and -1 at padding",
     [](Media& m) {
       m.image_position_ids = with(m.image_position_ids, {0, 0, 1}, 9);
     }},
    {"image_position_ids run from -2 to 3; wanted 0 to 8",
     [](Media& m) {
       m.image_position_ids = with(m.image_position_ids, {1, 9}, -2);
     }},
    {"image_position_ids has a patch with one coordinate -1",
     [](Media& m) {
       m.image_position_ids = with(m.image_position_ids, {0, 0, 0}, -1);
     }},
    {"image 1 has padding alone; wanted at least one patch",
     [](Media& m) { m.image_position_ids = with(m.image_position_ids, {1}, -1); }},
    {"a soft token has 3 to 4 patches; wanted 4, a square of 2 columns and rows",
     [](Media& m) {
       m.image_position_ids = with(m.image_position_ids, {1, 0}, -1);
     }},
    {"a soft token has 3 to 5 patches",  // one patch twice
     [](Media& m) {
       auto ids = m.image_position_ids.clone();
       const auto other = (ids[0].select(-1, 0) >= 2).nonzero()[0].item<std::int64_t>();
       const auto one = (ids[0].select(-1, 0) < 2)
                            .logical_and(ids[0].select(-1, 0) >= 0)
                            .nonzero()[0]
                            .item<std::int64_t>();
       ids[0][other] = ids[0][one];
       m.image_position_ids = ids;
     }},
    {"pixel_values_videos is Double [2, 4, 12]; wanted floats [video frame patch d_patch]",
     [](Media& m) { m.pixel_values_videos = m.pixel_values_videos[0]; }},
    {"video_position_ids is Long [1, 2, 3, 2]; wanted int64 [video frame patch 2] for "
     "pixel_values_videos",
     [](Media& m) { m.video_position_ids = m.video_position_ids.narrow(2, 0, 3); }},
    {"video_position_ids run from 0 to 9",
     [](Media& m) {
       m.video_position_ids = with(m.video_position_ids, {0, 1, 2, 0}, 9);
     }},
    {"pixel_values_videos is missing beside video_position_ids",
     [](Media& m) { m.pixel_values_videos.reset(); }},
    {"input_features is Double [2, 21, 7]; wanted floats [audio frame mel] with mel = 8, at least "
     "one clip and frame",
     [](Media& m) { m.input_features = m.input_features.narrow(-1, 0, 7); }},
    {"input_features is Double [2, 0, 8]; wanted",
     [](Media& m) { m.input_features = m.input_features.narrow(1, 0, 0); }},
    {"input_features Double [2, 21, 8] holds NaN or infinite numbers",
     [](Media& m) {
       m.input_features = with(m.input_features, {0, 0, 0}, INFINITY);
     }},
    {"input_features_mask is Long [2, 20]; wanted 0 and 1 [audio frame] for input_features Double "
     "[2, 21, 8]",
     [](Media& m) { m.input_features_mask = m.input_features_mask.narrow(1, 0, 20); }},
    {"input_features_mask is Long [2, 21]; wanted 0 and 1",
     [](Media& m) {
       m.input_features_mask = with(m.input_features_mask, {0, 3}, 2);
     }},
    {"input_features_mask: a clip has padding alone; wanted frames in each",
     [](Media& m) { m.input_features_mask = with(m.input_features_mask, {1}, 0); }},
    {"input_features is missing beside input_features_mask",
     [](Media& m) { m.input_features.reset(); }},
};

INSTANTIATE_TEST_SUITE_P(Media, RefusalTest, ::testing::ValuesIn(kRefusals),
                         [](const auto& row) { return "Row" + std::to_string(row.index); });

TEST(MediaRefusals, APartThatTheModelLacksIsUnsupportedByName) {
  const Media media = tiny_media(hearing_spec());
  const auto message = [&](const Media& given, const ModelSpec& spec) {
    try {
      prepare_media(given, spec, kFloat64);
    } catch (const UnsupportedError& error) {
      return std::string(error.what());
    }
    return std::string("it was taken");
  };
  const Media pixels{.pixel_values = media.pixel_values,
                     .image_position_ids = media.image_position_ids};
  const Media sound{.input_features = media.input_features};
  EXPECT_EQ(message(pixels, sharing_spec()),
            "pixel_values was given; this model has no part for images, or was loaded without it "
            "(modalities)");
  EXPECT_EQ(message(sound, seeing_spec()),
            "input_features was given; this model has no part for audio, or was loaded without it "
            "(modalities)");
}

TEST(MediaRefusals, TokensAndSoftTokensMustBeAsMany) {
  const ModelSpec spec = hearing_spec();
  const Bridge model = media_bridge(spec);
  const auto message = [&](const std::function<void(Input&)>& damage) {
    Input input = media_input(spec);
    damage(input);
    try {
      model.run(input);
    } catch (const ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("it was taken");
  };
  EXPECT_EQ(message([](Input& input) { input.tokens[0][1] = 2; }),
            "tokens hold 2 image tokens; pixel_values makes 3 soft tokens, wanted as many");
  EXPECT_EQ(message([](Input& input) { input.tokens[0][5] = 2; }),
            "tokens hold 1 video tokens; pixel_values_videos makes 2 soft tokens, wanted as many");
  EXPECT_EQ(message([](Input& input) { input.tokens[0][0] = kAudioId; }),
            "tokens hold 11 audio tokens; input_features makes 10 soft tokens, wanted as many");
  EXPECT_EQ(message([](Input& input) { input.media = {}; }).substr(0, 64),
            "tokens hold 3 image tokens, and pixel_values is missing; give it");
  EXPECT_EQ(message([](Input& input) {
              input.tokens = at::full({1, 4}, 3, at::kLong);
            }),
            "tokens hold 0 image tokens; pixel_values makes 3 soft tokens, wanted as many");
}

}  // namespace
}  // namespace bezel::bridge
