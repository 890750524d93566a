#include "pomona/sensitivity.h"

#include "pomona/error.h"

#include "error_of.h"
#include "temporary_folder.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using pomona::Prune;
using pomona::Rules;
using pomona::Share;
using pomona::testing::error_of;

torch::nn::Sequential network() {
  torch::manual_seed(0);
  return torch::nn::Sequential(torch::nn::Linear(8, 10), torch::nn::BatchNorm1d(10),
                               torch::nn::Linear(10, 4));
}

// Everything that a scan must leave as it was.
std::vector<at::Tensor> everything(torch::nn::Sequential& model) {
  std::vector<at::Tensor> tensors = model->parameters();
  for (auto& tensor : model->buffers()) tensors.push_back(tensor);
  for (auto& parameter : model->parameters()) tensors.push_back(parameter.grad());
  for (auto& tensor : tensors) tensor = tensor.detach().clone();
  return tensors;
}

bool are_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!at::equal(a[i].flatten().view(at::kByte), b[i].flatten().view(at::kByte))) return false;
  }
  return a.size() == b.size();
}

int64_t zeros(torch::nn::Sequential& model) {
  int64_t count = 0;
  for (const auto& weight : model->parameters()) count += weight.eq(0).sum().item<int64_t>();
  return count;
}

TEST(Sensitivity, MeasuresEachLayerPrunedAloneAndPutsEverythingBack) {
  auto model = network();
  model->forward(at::randn({4, 8})).sum().backward();
  model->eval();
  {
    const torch::NoGradGuard no_grad;
    model->parameters()[0][0][0] = -0.0;
  }
  const auto before = everything(model);
  std::vector<double> random;
  const auto evaluate = [&] {
    random.push_back(at::rand({1}).item<double>());
    model->train();
    model->forward(at::randn({4, 8})).sum().backward();  // moves buffers and gradients
    return static_cast<double>(zeros(model));
  };
  const auto scan = pomona::sensitivity(*model, evaluate, Rules<Prune>{{"*", Prune{0.9}}},
                                        {.settings = {0.5, 0.0}});
  const double dense = static_cast<double>(zeros(model));
  EXPECT_EQ(scan.dense, dense);
  ASSERT_EQ(scan.rows.size(), 4u);
  EXPECT_EQ(scan.rows[1].layer, "0.weight");
  EXPECT_EQ(scan.rows[1].setting, 0.5);
  EXPECT_EQ(scan.rows[1].kept, 40);
  EXPECT_EQ(scan.rows[1].metric, dense + 39);  // -0.0 was one of those that went
  EXPECT_EQ(scan.rows[2].metric, dense);       // nothing changed: not measured
  EXPECT_EQ(scan.rows[3].layer, "2.weight");
  EXPECT_EQ(scan.rows[3].metric, dense + 20);
  for (const double number : random) EXPECT_EQ(number, random[0]);
  EXPECT_TRUE(are_equal(everything(model), before));
  EXPECT_FALSE(model->is_training() || model[1]->is_training());
}

TEST(Sensitivity, AnExceptionPutsEverythingBack) {
  auto model = network();
  model->forward(at::randn({4, 8})).sum().backward();
  const auto before = everything(model);
  int calls = 0;
  const auto evaluate = [&]() -> double {
    model->eval();
    model->parameters()[1].mutable_grad().zero_();
    if (++calls == 3) throw std::runtime_error("stopped");
    return 0.0;
  };
  EXPECT_THROW(pomona::sensitivity(*model, evaluate, Rules<Prune>{{"*", Prune{}}}),
               std::runtime_error);
  EXPECT_TRUE(are_equal(everything(model), before));
  EXPECT_TRUE(model->is_training() && model[1]->is_training());
}

TEST(Sensitivity, OfBitsSharesWithTheVeryRule) {
  auto model = network();
  const auto evaluate = [&] {
    const auto weight = model->parameters()[0].flatten().contiguous();
    std::vector<float> values(weight.data_ptr<float>(), weight.data_ptr<float>() + weight.numel());
    std::ranges::sort(values);
    return static_cast<double>(std::ranges::unique(values).begin() - values.begin());
  };
  Share by_channel{.group = Share::kPerChannel};
  const auto scan = pomona::sensitivity(
      *model, evaluate, Rules<Share>{{"0", Share{}}, {"2", by_channel}}, {.settings = {2, 1}});
  EXPECT_EQ(scan.dense, 80);
  ASSERT_EQ(scan.rows.size(), 4u);
  EXPECT_EQ(scan.rows[0].metric, 2);
  EXPECT_EQ(scan.rows[1].metric, 4);
  EXPECT_EQ(scan.layers[1].rule.group, Share::kPerChannel);
  const auto rules = scan.rules(0.0);
  EXPECT_EQ(rules[0].second->bits, 1);  // 2 and 4 are fewer, so better, than 80
  EXPECT_EQ(rules[1].first, "2.weight");
}

TEST(Sensitivity, RulesStopAtTheFirstSettingThatCostsTooMuch) {
  const pomona::Sensitivity<Prune> scan{
      .dense = 1.0,
      .rows = {{"a", 0.1, 9, 10, 1.0},
               {"a", 0.5, 5, 10, 1.4},
               {"a", 0.9, 1, 10, 1.1},
               {"b", 0.1, 9, 10, 2.0}},
      .layers = {{{"a", {10, 1}}, Prune{.may_empty = true}}, {{"b", {10, 1}}, Prune{}}}};
  const auto rules = scan.rules(0.2);
  EXPECT_EQ(rules[0].second->sparsity, 0.1);
  EXPECT_TRUE(rules[0].second->may_empty);
  EXPECT_FALSE(rules[1].second.has_value());
  EXPECT_EQ(error_of([&] { scan.rules(-1.0); }),
            "Sensitivity.rules: expected `tolerance` to be at least 0, got -1.");
}

TEST(Sensitivity, WritesTheFileThatPythonReads) {
  pomona::Criterion criterion{.kind = pomona::Criterion::Kind::kStdFactor, .quality = 0.25};
  const pomona::Sensitivity<Prune> scan{
      .dense = 0.91,
      .rows = {{"a,b", 0.1, 9, 10, 1e-05}, {"a,b", 0.95, 1, 10, 100.0}},
      .layers = {{{"a,b", {5, 2}}, Prune{.criterion = criterion, .scope = pomona::Scope::kGlobal}}},
      .options = {.settings = {0.1, 0.95}, .metric = "caf\u00e9 \"%\""},
      .weights = "crc32c 7"};
  const pomona::testing::TemporaryFolder folder;
  scan.to_csv(folder / "scan.csv");
  EXPECT_EQ(
      pomona::testing::contents_of(folder / "scan.csv"),
      "# pomona.sensitivity {\"metric\": \"caf\\u00e9 \\\"%\\\"\", \"lower_is_better\": true, "
      "\"sparsities\": [0.1, 0.95], \"layers\": [{\"name\": \"a,b\", \"shape\": [5, 2], "
      "\"rule\": {\"sparsity\": 0.0, \"criterion\": {\"kind\": \"StdFactor\", \"quality\": "
      "0.25}, \"scope\": \"global\"}}], \"weights\": \"crc32c 7\"}\n"
      "layer,sparsity,kept,size,\"caf\u00e9 \"\"%\"\"\"\n"
      "(dense),0.0,10,10,0.91\n"
      "\"a,b\",0.1,9,10,1e-05\n"
      "\"a,b\",0.95,1,10,100.0\n");
  EXPECT_THROW(scan.to_csv(folder / "none" / "scan.csv"), pomona::FileError);
}

TEST(Sensitivity, AStoppedScanGoesOnBehindItsLastPoint) {
  auto model = network();
  const Rules<Prune> rules{{"0", Prune{}}, {"2", Prune{}}};
  const pomona::testing::TemporaryFolder folder;
  pomona::SensitivityOptions options{.settings = {0.2, 0.5, 0.9}};
  int calls = 0, stop_at = 100;
  const auto evaluate = [&] {
    if (++calls == stop_at) throw std::runtime_error("stopped");
    return static_cast<double>(zeros(model));
  };
  const auto whole = pomona::sensitivity(*model, evaluate, rules, options);
  EXPECT_EQ(calls, 7);
  whole.to_csv(folder / "whole.csv");

  options.resume = folder / "scan.csv";
  for (calls = 0, stop_at = 4; calls < stop_at;) {
    EXPECT_THROW(pomona::sensitivity(*model, evaluate, rules, options), std::runtime_error);
  }
  pomona::testing::write_contents(options.resume,
                                  pomona::testing::contents_of(options.resume) + "2.wei");
  calls = 0, stop_at = 100;
  const auto scan = pomona::sensitivity(*model, evaluate, rules, options);
  EXPECT_EQ(calls, 4);
  EXPECT_EQ(pomona::testing::contents_of(options.resume),
            pomona::testing::contents_of(folder / "whole.csv"));
  EXPECT_EQ(scan.rows[2].metric, whole.rows[2].metric);
  pomona::sensitivity(*model, evaluate, rules, options);
  EXPECT_EQ(calls, 4);  // everything is known
}

TEST(Sensitivity, RefusesToGoOnWithAnotherScan) {
  auto model = network();
  const auto nothing = [] { return 0.0; };
  const pomona::testing::TemporaryFolder folder;
  const pomona::SensitivityOptions options{.settings = {0.2}, .resume = folder / "scan.csv"};
  const auto error = [&](const Rules<Prune>& rules) {
    return error_of([&] { pomona::sensitivity(*model, nothing, rules, options); });
  };
  const auto expected = [&](const std::string& why) {
    return "sensitivity: expected `resume` to be a file of this scan, got \"" +
           options.resume.string() + "\" (" + why + "). Name another file or delete it.";
  };
  const Rules<Prune> rules{{"0", Prune{}}};
  EXPECT_EQ(error(rules), "no error");
  const std::string another = expected("a scan of another model, rules, settings or metric");
  EXPECT_EQ(error({{"2", Prune{}}}), another);
  const std::string before = pomona::testing::contents_of(options.resume);
  pomona::testing::write_contents(options.resume, before + "0.weight,0.2,x,80,0.0\n");
  EXPECT_EQ(error(rules), expected("the line \"0.weight,0.2,x,80,0.0\" is damaged"));
  pomona::testing::write_contents(options.resume, "layer,kept\n");
  EXPECT_EQ(error(rules), expected("its first line is another"));
  pomona::testing::write_contents(options.resume, before);
  {
    const torch::NoGradGuard no_grad;
    model->parameters()[0].add_(1.0);
  }
  EXPECT_EQ(error(rules), another);  // another training
  const pomona::SensitivityOptions nowhere{.resume = folder / "none" / "scan.csv"};
  EXPECT_THROW(pomona::sensitivity(*model, nothing, rules, nowhere), pomona::FileError);
}

TEST(Sensitivity, ALineOfTheFileIsReadAsItWasWritten) {
  for (const char* name : {"a.weight", "a,b", "say \"a\", b", "\""}) {
    const pomona::ScanPoint point{name, 0.1, 3, 10, 1e-05};
    std::string line = pomona::scan_line(pomona::ScanKind::kSparsity, point);
    line.pop_back();
    const auto read = pomona::parse_scan_line(line);
    ASSERT_TRUE(read.has_value()) << line;
    EXPECT_EQ(read->layer, name);
    EXPECT_EQ(pomona::scan_line(pomona::ScanKind::kSparsity, *read), line + "\n");
  }
  for (const char* line : {"", "a", "a,1,2,3", "a,1,2,3,x", "a,1.5x,2,3,4", "a,0.1,2.5,3,4",
                           "\"a,0.1,2,3,4", "a\"b,0.1,2,3,4", "\"a\"b\",0.1,2,3,4"}) {
    EXPECT_FALSE(pomona::parse_scan_line(line).has_value()) << line;
  }
}

TEST(Sensitivity, RefusesWhatItCannotDo) {
  auto model = network();
  const auto nothing = [] { return 0.0; };
  const auto error = [&](const std::function<double()>& evaluate, const Rules<Prune>& rules,
                         const pomona::SensitivityOptions& options) {
    return error_of([&] { pomona::sensitivity(*model, evaluate, rules, options); });
  };
  const Rules<Prune> every{{"*", Prune{}}};
  EXPECT_EQ(error({}, every, {}), "sensitivity: expected `evaluate` to be callable, got none.");
  EXPECT_EQ(error(nothing, {{"*", std::nullopt}}, {}),
            "sensitivity: expected `rules` to name a parameter, got none that does.");
  EXPECT_EQ(error(nothing, every, {.settings = {0.5, 1.0}}),
            "sensitivity: expected `settings` to be numbers in [0, 1), got 1.0.");
  EXPECT_EQ(error(nothing, every, {.settings = {0.5, 0.1, 0.5}}),
            "sensitivity: expected `settings` to be distinct, got 0.5 twice.");
  EXPECT_EQ(error(nothing, every, {.metric = "a\nb"}),
            "sensitivity: expected `metric` to be a name on one line, got \"a\\u000ab\".");
  EXPECT_EQ(error([] { return std::numeric_limits<double>::quiet_NaN(); }, every, {}),
            "sensitivity: expected `evaluate` to return a number, got nan for the dense network.");
  EXPECT_EQ(error_of([&] {
              pomona::sensitivity(*model, nothing, Rules<Share>{{"*", Share{}}}, {});
            }),
            "sensitivity: expected `settings` to be integers in 1..8, got none.");
}

}  // namespace
