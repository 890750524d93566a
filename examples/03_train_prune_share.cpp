// The whole thread without Python: a LeNet-300-100 is trained with DSD, pruned, shared, saved,
// loaded into a second model, packed and run, by a LibTorch program.
//
//   03_train_prune_share                                     on drawn digits, a few seconds
//   03_train_prune_share IMAGES LABELS TEST_IMAGES TEST_LABELS    on MNIST's files, uncompressed
//
// Without arguments it draws its own task: the ten digits of a seven-segment display, moved by up
// to three pixels and under noise, always the same. It prints error, nonzeros and bytes after each
// stage and ends with a status that is not 0 when a promise is broken.
#include "pomona/dsd.h"
#include "pomona/io.h"
#include "pomona/nn.h"
#include "pomona/optim.h"
#include "pomona/prune.h"
#include "pomona/quantize.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using torch::nn::Linear;
using torch::nn::ReLU;
using torch::nn::Sequential;
using torch::optim::Optimizer;

constexpr int64_t kSide = 28;
constexpr int64_t kBatch = 64;

struct Examples {
  at::Tensor images;  // float [n, 784], 0..1
  at::Tensor labels;  // int64 [n]
};

struct Task {
  Examples train, test;
};

// The task: drawn, or read from IDX files

// One digit [28, 28] as lit segments. Bit i of a digit's word is segment a, b, ... g of a display.
at::Tensor draw_digit(int64_t digit) {
  constexpr std::array<unsigned, 10> kLit{0x3f, 0x06, 0x5b, 0x4f, 0x66,
                                          0x6d, 0x7d, 0x07, 0x7f, 0x6f};
  struct Segment {
    int64_t top, left, height, width;
  };
  constexpr std::array<Segment, 7> kSegments{{{4, 9, 2, 10},
                                              {5, 18, 8, 2},
                                              {15, 18, 8, 2},
                                              {22, 9, 2, 10},
                                              {15, 8, 8, 2},
                                              {5, 8, 8, 2},
                                              {13, 9, 2, 10}}};
  auto image = at::zeros({kSide, kSide});
  for (size_t i = 0; i < kSegments.size(); ++i) {
    if ((kLit[static_cast<size_t>(digit)] >> i & 1U) == 0) continue;
    const auto& [top, left, height, width] = kSegments[i];
    image.narrow(0, top, height).narrow(1, left, width).fill_(1);
  }
  return image;
}

Examples draw(int64_t count) {
  std::vector<at::Tensor> digits, images;
  for (int64_t digit = 0; digit < 10; ++digit) digits.push_back(draw_digit(digit));
  const auto labels = at::randint(10, {count}, at::kLong);
  const auto shifts = at::randint(-3, 4, {count, 2}, at::kLong);
  for (int64_t i = 0; i < count; ++i) {
    const auto shift = shifts[i];
    images.push_back(at::roll(digits[static_cast<size_t>(labels[i].item<int64_t>())],
                              {shift[0].item<int64_t>(), shift[1].item<int64_t>()}, {0, 1}));
  }
  const auto clean = at::stack(images).view({count, kSide * kSide});
  return {(clean + 0.4 * at::randn_like(clean)).clamp_(0, 1), labels};
}

// IDX: 0, 0, 8 (for uint8), the number of dimensions, their sizes as big-endian uint32, the data.
at::Tensor read_idx(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<unsigned char, 4> word{};
  const auto read_word = [&] { file.read(reinterpret_cast<char*>(word.data()), word.size()); };
  read_word();
  if (!file || word[0] != 0 || word[1] != 0 || word[2] != 8) {
    throw std::runtime_error(path.string() + ": expected an uncompressed IDX file of bytes.");
  }
  std::vector<int64_t> shape(word[3]);
  for (auto& size : shape) {
    read_word();
    size = int64_t{word[0]} << 24 | int64_t{word[1]} << 16 | int64_t{word[2]} << 8 | word[3];
  }
  auto content = at::empty(shape, at::kByte);
  file.read(reinterpret_cast<char*>(content.data_ptr<uint8_t>()), content.numel());
  if (!file) throw std::runtime_error(path.string() + ": expected a whole IDX file, got less.");
  return content;
}

Examples read(const char* images, const char* labels) {
  return {read_idx(images).flatten(1).to(at::kFloat).div_(255), read_idx(labels).to(at::kLong)};
}

// The network and its loop: nothing of Pomona in it but `step`

Sequential lenet_300_100() {
  return Sequential({{"fc1", Linear(784, 300)},
                     {"relu1", ReLU()},
                     {"fc2", Linear(300, 100)},
                     {"relu2", ReLU()},
                     {"fc3", Linear(100, 10)}});
}

void train_epoch(Sequential& model, Optimizer& optimizer, const Examples& examples,
                 const std::function<void()>& step) {
  for (const auto& rows : at::randperm(examples.labels.size(0), at::kLong).split(kBatch)) {
    optimizer.zero_grad();
    const auto logits = model->forward(examples.images.index_select(0, rows));
    at::cross_entropy_loss(logits, examples.labels.index_select(0, rows)).backward();
    step();
  }
}

double error_percent(Sequential& model, const Examples& examples) {
  const torch::NoGradGuard no_grad;
  const auto wrong = model->forward(examples.images).argmax(1).ne(examples.labels);
  return 100 * wrong.to(at::kDouble).mean().item<double>();
}

int64_t nonzeros(const Sequential& model) {
  int64_t count = 0;
  for (const auto& parameter : model->parameters()) {
    if (parameter.dim() >= 2) count += parameter.count_nonzero().item<int64_t>();
  }
  return count;
}

// The stages

class Thread {
 public:
  explicit Thread(Task task) : task_(std::move(task)) {}

  // How many promises were broken.
  int run() {
    std::printf("%-28s %8s %10s %10s\n", "stage", "error %", "nonzeros", "bytes");
    train_dense_sparse_dense();
    prune();
    share();
    auto loaded = load();
    pack(loaded);
    return broken_;
  }

 private:
  void train_dense_sparse_dense() {
    torch::optim::SGD optimizer(model_->parameters(),
                                torch::optim::SGDOptions(0.05).momentum(0.9).nesterov(true));
    pomona::DSD::Options options;
    options.lengths = {4, 2, 2};
    pomona::DSD dsd(rules<pomona::Prune>({{"*", pomona::Prune{0.3}}}), options);
    const auto live = [&] { return pomona::live(*model_, dsd.pruner().names(), &optimizer); };
    dsd.start(live());
    while (dsd.remaining() > 0) {
      train_epoch(model_, optimizer, task_.train,
                  [&] { pomona::step(optimizer, live(), dsd.pruner(), dsd.lr_factor()); });
      const bool was_sparse = dsd.phase() == pomona::Phase::kSparse;
      if (was_sparse) promise(dsd.pruner().sparsity() > 0.29, "the sparse phase is sparse");
      dsd.step(live());
    }
    promise(!dsd.pruner().is_pruned(), "DSD ends dense");
    dense_error_ = show("trained with DSD");
  }

  void prune() {
    torch::optim::SGD optimizer(model_->parameters(),
                                torch::optim::SGDOptions(0.02).momentum(0.9).nesterov(true));
    pomona::Pruner pruner(rules<pomona::Prune>({{"fc1", pomona::Prune{0.92}},
                                                {"fc2", pomona::Prune{0.91}},
                                                {"fc3", pomona::Prune{0.74}}}));
    const auto live = [&] { return pomona::live(*model_, pruner.names(), &optimizer); };
    pruner.step(live());
    for (int epoch = 0; epoch < 4; ++epoch) {
      train_epoch(model_, optimizer, task_.train, [&] { pomona::step(optimizer, live(), pruner); });
    }
    int64_t kept = 0;
    for (const auto& line : pruner.report()) kept += line.kept;
    promise(nonzeros(model_) <= kept, "pruned weights stay exactly 0");
    pruned_nonzeros_ = nonzeros(model_);
    show("pruned and retrained");
  }

  void share() {
    torch::optim::Adam optimizer(model_->parameters(), torch::optim::AdamOptions(1e-4));
    pomona::Sharer sharer(rules<pomona::Share>({{"*", pomona::Share{5}}}));
    const auto live = [&] { return pomona::live(*model_, sharer.names(), &optimizer); };
    sharer.assign(live());
    for (int epoch = 0; epoch < 2; ++epoch) {
      train_epoch(model_, optimizer, task_.train, [&] { pomona::step(optimizer, live(), sharer); });
    }
    sharer.check(live());  // throws when a weight has left its codebook
    promise(nonzeros(model_) <= pruned_nonzeros_, "sharing revives no pruned weight");
    const double error = show("shared and fine-tuned");
    promise(error < dense_error_ + 5, "the error has not collapsed");
  }

  Sequential load() {
    const auto report = pomona::save(*model_, file_);
    promise(report.file_bytes == std::filesystem::file_size(file_), "save reports the real size");
    promise(report.file_bytes * 20 < report.dense_bytes, "the file is 20x smaller than fp32");
    auto loaded = lenet_300_100();
    pomona::load_(*loaded, file_);
    const auto saved = model_->named_parameters();
    for (const auto& item : loaded->named_parameters()) {
      promise(item.value().equal(saved[item.key()]), "loaded equals saved: " + item.key());
    }
    show("saved and loaded", loaded, report.file_bytes);
    return loaded;
  }

  void pack(Sequential& model) {
    const torch::NoGradGuard no_grad;
    const auto inputs = task_.test.images.narrow(0, 0, 1);
    Sequential packed({{"fc1", pomona::nn::PackedLinear(model[0]->as<Linear>()->weight,
                                                        model[0]->as<Linear>()->bias)},
                       {"relu1", ReLU()},
                       {"fc2", pomona::nn::PackedLinear(model[2]->as<Linear>()->weight,
                                                        model[2]->as<Linear>()->bias)},
                       {"relu2", ReLU()},
                       {"fc3", pomona::nn::PackedLinear(model[4]->as<Linear>()->weight,
                                                        model[4]->as<Linear>()->bias)}});
    const auto& images = task_.test.images;
    promise(packed->forward(images).allclose(model->forward(images), 1e-4, 1e-4),
            "packed layers give the dense layers' outputs");
    uint64_t bytes = 0;
    for (const auto& buffer : packed->buffers()) bytes += buffer.nbytes();
    show("run packed, every layer", packed, bytes, pruned_nonzeros_);
    for (const auto& choice : pomona::nn::pack_(model, inputs)) {
      std::printf("  %s: dense %.1f us, packed %.1f us at batch 1: %s\n", choice.name.c_str(),
                  choice.dense_us, choice.packed_us, choice.is_packed ? "packed" : "stays dense");
    }
    promise(model->forward(images).allclose(packed->forward(images), 1e-4, 1e-4),
            "pack_ keeps the outputs");
  }

  template <class Rule>
  std::vector<pomona::Ruled<Rule>> rules(const pomona::Rules<Rule>& rules) {
    return pomona::resolve<Rule>(pomona::parameters(*model_), rules);
  }

  double show(const char* stage) {
    uint64_t bytes = 0;
    for (const auto& parameter : model_->parameters()) bytes += parameter.nbytes();
    return show(stage, model_, bytes);
  }

  double show(const char* stage, Sequential& model, uint64_t bytes, int64_t count = -1) {
    const double error = error_percent(model, task_.test);
    std::printf("%-28s %8.2f %10lld %10llu\n", stage, error,
                static_cast<long long>(count < 0 ? nonzeros(model) : count),
                static_cast<unsigned long long>(bytes));
    return error;
  }

  void promise(bool is_kept, const std::string& what) {
    if (is_kept) return;
    std::printf("BROKEN: %s\n", what.c_str());
    ++broken_;
  }

  Task task_;
  std::filesystem::path file_ = "lenet_300_100.pomona";
  Sequential model_ = lenet_300_100();
  double dense_error_ = 0;
  int64_t pruned_nonzeros_ = 0;
  int broken_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 1 && argc != 5) {
    std::printf("usage: %s [IMAGES LABELS TEST_IMAGES TEST_LABELS]\n", argv[0]);
    return 2;
  }
  at::set_num_threads(1);
  torch::manual_seed(0);
  Task task;
  if (argc == 5) {
    task = {read(argv[1], argv[2]), read(argv[3], argv[4])};
  } else {
    task.train = draw(4000);
    task.test = draw(1000);
  }
  return Thread(std::move(task)).run() == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::printf("%s\n", error.what());
  return 1;
}
