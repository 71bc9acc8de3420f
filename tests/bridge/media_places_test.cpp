// Which tokens stand for media: by their ids, and by the types that are given.
#include "bezel/bridge/media.h"
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny_media.h"

namespace bezel::bridge {
namespace {

const at::TensorOptions kFloat64 = at::TensorOptions(at::kDouble);

TEST(MediaPlaces, PlacesAreThoseOfTheIds) {
  const ModelSpec spec = hearing_spec();
  const auto tokens = media_tokens(spec);
  const MediaPlaces by_id = places_of_ids(tokens, kAudioId, spec);
  EXPECT_TRUE(at::equal(by_id.image, tokens == kImageId));
  EXPECT_TRUE(at::equal(by_id.video, tokens == kVideoId));
  EXPECT_TRUE(at::equal(by_id.audio, tokens == kAudioId));
  EXPECT_FALSE(places_of_ids(tokens.clamp_max(kImageId - 1), kImageId - 1, spec).any());
}

TEST(MediaPlaces, AMediaIdOfTypeTextStandsForNothing) {
  const ModelSpec spec = hearing_spec();
  const auto tokens = media_tokens(spec);
  const MediaPlaces by_id = places_of_ids(tokens, kAudioId, spec);
  auto types = types_of(by_id);
  types = types.masked_fill(by_id.video, 0);
  types[0][1] = 0;
  for (const PreparedMedia& media :
       {PreparedMedia(), prepare_media(tiny_media(spec), spec, kFloat64)}) {
    const MediaPlaces places = places_of_types(types, tokens, by_id, media);
    EXPECT_TRUE(at::equal(places.image, types == 1));
    EXPECT_FALSE(places.video.defined());
    EXPECT_TRUE(at::equal(places.audio, by_id.audio));
  }
  EXPECT_FALSE(places_of_types(at::zeros_like(types), tokens, by_id, {}).any());
}

TEST(MediaPlaces, WithoutIdsPlacesAreThoseOfTheTypesIfThereAreMedia) {
  const ModelSpec spec = hearing_spec();
  const auto types = at::tensor({0, 1, 1, 3}, at::kLong).unsqueeze(0);
  const auto media = prepare_media(tiny_media(spec), spec, kFloat64);
  const MediaPlaces places = places_of_types(types, {}, {}, media);
  EXPECT_TRUE(at::equal(places.image, types == 1));
  EXPECT_FALSE(places.video.defined());
  EXPECT_TRUE(at::equal(places.audio, types == 3));
  EXPECT_FALSE(places_of_types(types, {}, {}, {}).any());  // the embeddings hold the features
}

TEST(MediaPlaces, ATypeThatContradictsItsIdIsToldWithItsPlace) {
  const ModelSpec spec = hearing_spec();
  const Bridge model = media_bridge(spec);
  const auto tokens = media_tokens(spec);
  const auto by_id = types_of(places_of_ids(tokens, kAudioId, spec));
  const auto message = [&](std::int64_t pos, std::int64_t type, const Media& media) {
    Input input{.tokens = tokens, .token_types = by_id.clone(), .media = media};
    input.token_types[0][pos] = type;
    try {
      model.run(input);
    } catch (const ArgumentError& error) {
      return std::string(error.what());
    }
    return std::string("it was taken");
  };
  const std::string of_word =
      "mm_token_type_ids at [0, 3] is 1 (image), and the token there is 2, which stands for no "
      "image; wanted the model's image id there, or 0 (text)";
  const std::string of_image =
      "mm_token_type_ids at [0, 1] is 2 (video), and the token there is 20, which stands for no "
      "video; wanted the model's video id there, or 0 (text)";
  EXPECT_EQ(message(3, 1, tiny_media(spec)), of_word);
  EXPECT_EQ(message(1, 2, tiny_media(spec)), of_image);
  EXPECT_EQ(message(1, 2, {}), of_image);
  EXPECT_EQ(message(1, 1, tiny_media(spec)), "it was taken");
  EXPECT_EQ(message(1, 0, tiny_media(spec)),
            "tokens hold 2 image tokens; pixel_values makes 3 soft tokens, wanted as many");
}

TEST(MediaPlaces, TypesAreIntegersFromZeroToThree) {
  const ModelSpec spec = hearing_spec();
  const Bridge model = media_bridge(spec);
  for (const at::Tensor& types : {at::full({1, 3}, 4), at::full({1, 3}, -1), at::zeros({1, 3})}) {
    EXPECT_THROW(
        model.run({.tokens = at::tensor({1, 2, 3}, at::kLong).view({1, 3}), .token_types = types}),
        ArgumentError);
  }
}

}  // namespace
}  // namespace bezel::bridge
