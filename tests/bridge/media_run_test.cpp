// Runs with media: every name of the encoders is causal, fires once with its axes, and is told
// where its values stand; caches, threads and generations hold what they hold for text.
#include <atomic>
#include <map>
#include <thread>

#include "bezel/bridge/generate.h"
#include "bezel/bridge/kv_cache.h"
#include "bezel/hooks/error.h"
#include "tests/bridge/tiny_media.h"

namespace bezel::bridge {
namespace {

using hooks::Axis;
using hooks::HookSite;
using hooks::SiteRow;

constexpr double kRounding = 1e-10;

at::Tensor noise(const at::Tensor& value, const HookSite&) {
  return value + at::randn_like(value) * 0.3;
}
at::Tensor keep(const at::Tensor&, const HookSite&) { return {}; }

bool is_split_input(SiteRow at) { return at.point().name.ends_with("_input"); }

class MediaRun : public MediaTest {
 protected:
  // Of a prompt as its ids say, and of so many generated tokens behind it.
  at::Tensor types_of_longer(const at::Tensor& prompt, std::int64_t n_new) const {
    const auto places = places_of_ids(prompt, kAudioId, model_.spec());
    const auto types = places.any() ? types_of(places) : at::zeros_like(prompt);
    return at::constant_pad_nd(types, {0, n_new});
  }
};
INSTANTIATE_TEST_SUITE_P(Tiny, MediaRun, ::testing::ValuesIn(kMediaVariants));

TEST_P(MediaRun, ARandomEditOfEveryNameOfTheEncodersReachesTheLogits) {
  for (const Path path : {Path::kOpen, Path::kAutomatic}) {
    const auto logits = [&](const hooks::Request& request) {
      return model_.run(input_, request, {.path = path}).output;
    };
    const auto before = logits({});
    for (const SiteRow at : media_rows()) {
      const auto after = logits({.edits = {hooks::edit(name(at), noise)}});
      EXPECT_GT(distance(after, before), 1e-9) << name(at);
      EXPECT_TRUE(at::isfinite(after).all().item<bool>()) << name(at);
    }
  }
}

TEST_P(MediaRun, AnIdentityEditOfThemChangesNothing) {
  const auto plain = run({}).output;
  for (const SiteRow at : media_rows()) {
    const auto after = run({.edits = {hooks::edit(name(at), keep)}}).output;
    if (is_split_input(at)) {
      EXPECT_LE(distance(after, plain), 1e-13) << name(at);
    } else {
      EXPECT_TRUE(at::equal(after, plain)) << name(at);
    }
  }
}

TEST_P(MediaRun, TheAutomaticPathDiffersFromTheOpenOneByRoundingAlone) {
  EXPECT_LE(distance(model_.run(input_).output, run({}).output), 1e-12);
  const Bridge model = media_bridge(GetParam().spec(), at::kFloat);
  const auto open = model.run(input_, {}, {.path = Path::kOpen}).output;
  EXPECT_LE(distance(model.run(input_).output, open),
            5e-5 * std::max(1.0, open.abs().max().item<double>()));
}

TEST_P(MediaRun, AllNamesOfOneRunAreThoseOfRunsForEachAlone) {
  for (const Path path : {Path::kOpen, Path::kAutomatic}) {
    const auto all = model_.run(input_, {.names = every_name()}, {.path = path}).cache;
    ASSERT_EQ(all->size(), model_.inventory().rows().size());
    for (const SiteRow at : media_rows()) {
      const auto alone = model_.run(input_, {.names = {name(at)}}, {.path = path}).cache;
      EXPECT_LE(distance(alone->at(name(at)), all->at(name(at))), 1e-12) << name(at);
    }
  }
}

TEST_P(MediaRun, ValuesHaveThePlannedShapesDtypesAndBytes) {
  for (const auto type : {at::kDouble, at::kBFloat16}) {
    const Bridge model = media_bridge(GetParam().spec(), type);
    const auto plan = model.plan(input_, {.names = every_name()});
    for (const Path path : {Path::kOpen, Path::kAutomatic}) {
      const auto cache = model.run(input_, {.names = every_name()}, {.path = path}).cache;
      std::map<const void*, std::int64_t> held;  // each storage once
      for (const hooks::PlannedValue& value : plan->values()) {
        const auto& got = cache->at(value.name);
        EXPECT_EQ(got.sizes(), at::IntArrayRef(value.shape)) << value.name;
        EXPECT_EQ(got.scalar_type(), value.dtype) << value.name;
        held[got.storage().unsafeGetStorageImpl()] =
            static_cast<std::int64_t>(got.storage().nbytes());
      }
      std::int64_t n_bytes = 0;
      for (const auto& [storage, size] : held) n_bytes += size;
      EXPECT_EQ(n_bytes, plan->cache_bytes());
    }
  }
}

TEST_P(MediaRun, NamesOfImagesAreToldColumnsAndRowsAndThoseOfSoundTheirFrames) {
  const auto prepared = prepare_media(input_.media, model_.spec(), model_.options());
  for (const SiteRow at : media_rows()) {
    int n_fired = 0;
    const auto look = [&](const at::Tensor&, const HookSite& site) {
      ++n_fired;
      if (model_.inventory().part(at) == hooks::Part::kVision) {
        EXPECT_TRUE(at::equal(site.positions, prepared.images.positions)) << site.name;
        EXPECT_TRUE(at::equal(site.key_positions, prepared.images.positions)) << site.name;
      } else {
        const auto wanted = at::tensor({0, 1, 2, 3, 4, 5, 0, 1, 2, 3, -1, -1}, at::kLong);
        EXPECT_TRUE(at::equal(site.positions, wanted.view({2, 6}))) << site.name;
      }
      return at::Tensor();
    };
    run({.edits = {hooks::edit(name(at), look)}});
    EXPECT_EQ(n_fired, 1) << name(at);
  }
}

TEST(MediaStanding, KeysOfAChunkAreTheFramesItMaySee) {
  const Bridge model = media_bridge(hearing_spec());
  const auto look = [](const at::Tensor& pattern, const HookSite& site) {
    const auto first = at::tensor({-1, -1, 0, 1, 0, 1, 2, 3, 2, 3, 4, 5}, at::kLong);
    const auto second = at::tensor({-1, -1, 0, 1, 0, 1, 2, 3, 2, 3, -1, -1}, at::kLong);
    EXPECT_TRUE(at::equal(site.key_positions, at::stack({first, second}).view({2, 3, 4})));
    EXPECT_EQ(pattern.size(-1), site.key_positions.size(-1));
    return at::Tensor();
  };
  model.run(media_input(model.spec()),
            {.edits = {hooks::edit("audio_encoder.blocks.1.attn.hook_pattern", look)}});
}

TEST_P(MediaRun, FeaturesStandWhereTheMediaTokensAreAndTheEmbeddingElsewhere) {
  const auto cache = run({.names = every_name()}).cache;
  const auto embed = cache->at("hook_embed"), full = cache->at("hook_full_embed");
  const auto images = cache->at("vision_projector.hook_out");
  std::int64_t n_image = 0, n_video = 3, n_audio = 0;
  at::Tensor sound;
  if (model_.spec().audio) {
    const auto valid =
        prepare_media(input_.media, model_.spec(), model_.options()).sound.soft_valid;
    sound = cache->at("audio_projector.hook_out")
                .flatten(0, 1)
                .index_select(0, valid.flatten().nonzero().squeeze(1));
  }
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t pos = 0; pos < 16; ++pos) {
      const auto id = input_.tokens[row][pos].item<std::int64_t>();
      const auto want = id == kImageId   ? images[n_image++]
                        : id == kVideoId ? images[n_video++]
                        : id == kAudioId ? sound[n_audio++]
                                         : embed[row][pos];
      EXPECT_TRUE(at::equal(full[row][pos], want)) << row << " " << pos;
    }
  }
  EXPECT_EQ(n_image, 3);
  EXPECT_EQ(n_video, 5);
}

TEST_P(MediaRun, AtMediaTokensTheEmbeddingIsThatOfPadding) {
  const auto embed = run({.names = {"hook_embed"}}).cache->at("hook_embed");
  const auto pad =
      run({.names = {"hook_embed"}}, {.tokens = at::tensor({1, 0, 1}, at::kLong).view({1, 3})})
          .cache->at("hook_embed")[0][1];
  EXPECT_TRUE(at::equal(embed[0][1], pad));
  EXPECT_TRUE(at::equal(embed[1][4], pad));
}

TEST_P(MediaRun, WithoutMediaTheEncodersDoNotRun) {
  const Input text{.tokens = tiny_tokens(2, 9).clamp_max(19)};
  const auto cache = run({.names = {"*"}}, text).cache;
  for (const auto& [name, value] : cache->items()) {
    EXPECT_EQ(model_.inventory().part(model_.inventory().resolve(name)), hooks::Part::kText);
  }
  EXPECT_THROW(run({.names = {"vision_projector.hook_out"}}, text), HookNeverFiredError);
}

TEST_P(MediaRun, ImagesPaddedFurtherGiveTheSameLogits) {
  Input padded = input_;
  Media& media = padded.media;
  media.pixel_values = at::constant_pad_nd(media.pixel_values, {0, 0, 0, 5}, 0.7);
  media.image_position_ids = at::constant_pad_nd(media.image_position_ids, {0, 0, 0, 5}, -1);
  EXPECT_LE(distance(run({}, padded).output, run({}).output), 1e-12);
}

TEST_P(MediaRun, TheOrderOfPatchesDoesNotMatter) {
  if (!model_.spec().vision->encoder) GTEST_SKIP() << "without an encoder patches are soft tokens";
  Input shuffled = input_;
  const auto order = at::randperm(10, at::kLong);
  shuffled.media.pixel_values = input_.media.pixel_values.index_select(1, order);
  shuffled.media.image_position_ids = input_.media.image_position_ids.index_select(1, order);
  EXPECT_LE(distance(run({}, shuffled).output, run({}).output), 1e-12);
}

TEST_P(MediaRun, OneImageDoesNotReachTheOther) {
  const auto edit_second = [](const at::Tensor& x, const HookSite&) {
    auto edited = x.clone();
    edited[1].mul_(-2);
    return edited;
  };
  const std::string patches = model_.spec().vision->encoder ? "vision_encoder.hook_patches"
                                                            : "vision_embedder.hook_patches";
  const std::string out = "vision_projector.hook_out";
  const auto before = run({.names = {out}}).cache->at(out);
  const auto after =
      run({.names = {out}, .edits = {hooks::edit(patches, edit_second)}}).cache->at(out);
  const auto same = after.eq(before).all(-1);  // of 2 + 1 soft tokens of images, then 2 of frames
  EXPECT_TRUE(at::equal(same, at::tensor({1, 1, 0, 1, 1}).to(at::kBool)));
}

TEST_P(MediaRun, GradientsReachPixelsAndSound) {
  std::vector<std::string> starts = {model_.spec().vision->encoder
                                         ? "vision_encoder.hook_patches"
                                         : "vision_embedder.hook_patches"};
  if (model_.spec().audio) {
    starts.emplace_back(model_.spec().audio->encoder ? "audio_encoder.hook_features"
                                                     : "audio_projector.hook_in");
  }
  for (const std::string& start : starts) {
    const hooks::Request request{.names = {start}, .gradients = true};
    const auto result = run(request);
    result.output[1][15][3].backward();
    const auto gradient = result.cache->at(start + "_grad");
    EXPECT_GT(gradient.abs().max().item<double>(), 0) << start;
    // Against a difference of two runs.
    const auto direction = at::randn_like(gradient);
    const auto moved = [&](double step) {
      const auto shift = [&](const at::Tensor& x, const HookSite&) { return x + direction * step; };
      return run({.edits = {hooks::edit(start, shift)}}).output[1][15][3].item<double>();
    };
    constexpr double kStep = 1e-6;
    const double slope = (moved(kStep) - moved(-kStep)) / (2 * kStep);
    const double want = (gradient * direction).sum().item<double>();
    EXPECT_NEAR(slope, want, 1e-5 * std::max(1.0, std::abs(want))) << start;
  }
}

TEST_P(MediaRun, ThreadsWithDifferentHooksDoNotSeeEachOther) {
  const std::vector<std::string> names = {"vision_projector.hook_out", "hook_full_embed",
                                          "vision_projector.hook_in"};
  const auto serve = [&](std::size_t caller) {
    const auto change = [caller](const at::Tensor& x, const HookSite&) {
      return x * static_cast<double>(2 + caller);
    };
    return run({.names = {"*"}, .edits = {hooks::edit(names[caller], change)}});
  };
  std::vector<RunResult> serial;
  for (std::size_t caller = 0; caller < names.size(); ++caller) serial.push_back(serve(caller));
  EXPECT_FALSE(at::equal(serial[0].output, serial[1].output));
  std::atomic<int> n_different = 0;
  std::vector<std::thread> threads;
  for (std::size_t caller = 0; caller < names.size(); ++caller) {
    threads.emplace_back([&, caller] {
      at::set_num_threads(1);
      for (int round = 0; round < 5; ++round) {
        const auto got = serve(caller);
        bool same = at::equal(got.output, serial[caller].output);
        for (const auto& [name, value] : serial[caller].cache->items()) {
          same = same && at::equal(value, got.cache->at(name));
        }
        if (!same) ++n_different;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(n_different, 0);
}

TEST_P(MediaRun, RunsOfPartsBehindTheMediaEqualOneRun) {
  const auto whole = run({}).output;
  // Behind row 0's last media token; row 1 has none there either. No image block is cut.
  for (const std::int64_t n_first : {13, 15}) {
    auto cache = std::make_shared<KvCache>(model_.spec());
    Input first = input_, rest;
    first.tokens = input_.tokens.narrow(1, 0, n_first);
    first.kv_cache = rest.kv_cache = cache;
    rest.tokens = input_.tokens.narrow(1, n_first, 16 - n_first);
    EXPECT_LT(distance(run({}, first).output, whole.narrow(1, 0, n_first)), kRounding);
    EXPECT_LT(distance(run({}, rest).output, whole.narrow(1, n_first, 16 - n_first)), kRounding);
  }
}

TEST_P(MediaRun, AGenerationWithAKvCacheIsThatWithoutOneAndOfTheSlowLoop) {
  constexpr std::int64_t kNew = 8;
  GenerateOptions options{.max_new_tokens = kNew,
                          .eos_token_ids = std::vector<std::int64_t>{},
                          .run = {.path = Path::kOpen}};
  const auto with = generate(model_, input_, {}, options);
  options.uses_kv_cache = false;
  EXPECT_TRUE(at::equal(generate(model_, input_, {}, options).tokens, with.tokens));
  auto text = input_.tokens;
  for (std::int64_t i = 0; i < kNew; ++i) {
    Input input = input_;
    input.tokens = text;
    input.attention_mask = at::ones_like(text);
    input.token_types = types_of_longer(input_.tokens, i);
    const auto logits = run({}, input).output;
    text = at::cat({text, logits.select(1, -1).argmax(-1, /*keepdim=*/true)}, 1);
  }
  EXPECT_TRUE(at::equal(with.tokens, text));
}

TEST_P(MediaRun, AGenerationKeepsTheValuesOfTheEncodersOfItsFirstStep) {
  GenerateOptions options{.max_new_tokens = 3,
                          .eos_token_ids = std::vector<std::int64_t>{},
                          .keeps_values = true,
                          .run = {.path = Path::kOpen}};
  const std::vector<hooks::Selector> names = {"vision_*", "blocks.0.attn.hook_z"};
  int n_fired = 0;
  const auto count = [&](const at::Tensor&, const HookSite& site) {
    EXPECT_EQ(site.step, 0);
    ++n_fired;
    return at::Tensor();
  };
  for (const bool uses_kv_cache : {true, false}) {
    options.uses_kv_cache = uses_kv_cache;
    const auto got = generate(model_, input_, {.names = names}, options);
    const auto want = run({.names = {"vision_*"}}).cache;
    for (const auto& [name, value] : want->items()) {
      EXPECT_LE(distance(got.cache->at(name), value), kRounding) << name;
    }
    EXPECT_EQ(got.cache->at("blocks.0.attn.hook_z").size(1), 16 + 2);
  }
  options.uses_kv_cache = true;
  generate(model_, input_, {.edits = {hooks::edit("vision_projector.hook_out", count)}}, options);
  EXPECT_EQ(n_fired, 1);
}

TEST_P(MediaRun, AMediaIdThatIsGeneratedAsksForNoFeatures) {
  Input input = input_;
  input.tokens = at::cat({input_.tokens, at::full({2, 1}, kImageId, at::kLong)}, 1);
  EXPECT_THROW(run({}, input), ArgumentError);
  input.token_types = types_of_longer(input_.tokens, 1);
  const auto embed = run({.names = {"hook_full_embed"}}, input).cache->at("hook_full_embed");
  EXPECT_EQ(embed.size(1), 17);
}

// What a generation with a cache computed is what one run of the whole text does, whose types say
// that the ids behind the prompt are text.
TEST_P(MediaRun, ATextWithMediaIdsThatWereGeneratedIsRunAgainWithItsTypes) {
  const auto only_media = [](const at::Tensor& logits, const HookSite& site) {
    auto chosen = at::zeros_like(logits);
    for (const std::int64_t id : {kImageId, kVideoId, kAudioId}) {
      chosen.select(-1, id).fill_((site.step + id) % 3);
    }
    return at::where(chosen == 2, logits + 1e3, logits);
  };
  constexpr std::int64_t kNew = 6;
  const GenerateOptions options{.max_new_tokens = kNew,
                                .eos_token_ids = std::vector<std::int64_t>{},
                                .keeps_values = true,
                                .run = {.path = Path::kOpen}};
  const hooks::Request request{.names = {"blocks.1.hook_resid_post", "hook_unembed"},
                               .edits = {hooks::edit("hook_logits", only_media)}};
  const Input text{.tokens = tiny_tokens(2, 9).clamp_max(19)};
  for (const Input& prompt : {input_, text}) {
    const auto made = generate(model_, prompt, request, options);
    const std::int64_t n_prompt = prompt.tokens.size(1);
    ASSERT_TRUE((made.tokens.narrow(1, n_prompt, kNew) >= kImageId).all().item<bool>());
    Input whole{.tokens = made.tokens.narrow(1, 0, n_prompt + kNew - 1), .media = prompt.media};
    EXPECT_THROW(run({}, whole), ArgumentError);
    whole.token_types = types_of_longer(prompt.tokens, kNew - 1);
    const auto again = run({.names = request.names}, whole).cache;
    for (const auto& [name, value] : again->items()) {
      EXPECT_LE(distance(made.cache->at(name), value), kRounding) << name;
    }
  }
}

TEST_P(MediaRun, BehindACacheMediaIdsWithoutMediaAreText) {
  const auto ids = at::full({2, 3}, kImageId, at::kLong);
  const Input text{.tokens = at::cat({tiny_tokens(2, 9).clamp_max(19), ids}, 1),
                   .token_types = at::zeros({2, 12}, at::kLong)};
  Input first{.tokens = text.tokens.narrow(1, 0, 9)}, rest{.tokens = ids};
  first.kv_cache = rest.kv_cache = std::make_shared<KvCache>(model_.spec());
  run({}, first);
  EXPECT_LE(distance(run({}, rest).output, run({}, text).output.narrow(1, 9, 3)), kRounding);
}

TEST_P(MediaRun, AnEditOfARunThatBeginsBehindTheEmbeddingsCannotReachTheEncoders) {
  const auto stream = run({.names = {"blocks.1.hook_resid_pre"}}).cache;
  Input input = input_;
  input.embeddings = stream->at("blocks.1.hook_resid_pre");
  input.start_at_layer = 1;
  EXPECT_THROW(run({.names = {"vision_projector.hook_out"}}, input), HookNeverFiredError);
}

}  // namespace
}  // namespace bezel::bridge
