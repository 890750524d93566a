// The cost w(i, j) of the run of points [i, j) satisfies the quadrangle inequality (it is Monge):
//
//   w(a, c) + w(b, d) <= w(a, d) + w(b, c)     for a <= b <= c <= d
//
// From it follow all that is used here (Aggarwal, Schieber, Tokuyama, "Finding a minimum-weight
// k-link path in graphs with the concave Monge property", 1994):
//
// 1. F(k), the least cost of k runs, is convex in k. So for a price p on each run the minimum of
//    F(k) + p k, which needs no table over k, is taken by some k, and a larger price gives fewer
//    runs: search the price that gives the k asked for.
// 2. Where F is straight around k, no price gives k alone. A path with fewer and one with more
//    runs, both the best at that price, can then be spliced into one with k runs that is the best
//    as well.
// 3. The best last run of [0, j) begins at a place that does not decrease with j: one pass over j
//    with a queue of candidates finds all (Galil, Giancarlo 1989).
//
// With W and S the prefix sums of weight and weight * position, w(i, j) is the difference of prefix
// sums of weight * position^2, which every partition has in common, less (S_j - S_i)^2 / (W_j -
// W_i). Differences of prefix sums lose digits where clusters are far narrower than the whole;
// then they are taken in long double, and few points go another way, by costs that are sums of
// squares.
//
// Source: thesis §4.3 (within-cluster sum of squares, eq. 4.2).

#include "quantize/partition_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pomona {
namespace {

// Runs are few: their bounds are kept as vertices of a path, 0 = v[0] < v[1] < ... = n.
using Path = std::vector<uint32_t>;

int64_t runs_of(const Path& path) {
  return static_cast<int64_t>(path.size()) - 1;
}

template <class Real>
class PricedPaths {
 public:
  explicit PricedPaths(const Points& points) : size_(static_cast<uint32_t>(points.size())) {
    Real mass = 0, moment = 0;
    for (size_t i = 0; i < points.size(); ++i) {
      mass += Real(points.weights[i]);
      moment += Real(points.weights[i]) * Real(points.positions[i]);
    }
    const Real center = moment / mass;
    mass_.reserve(size_ + size_t{1});
    moment_.reserve(size_ + size_t{1});
    mass_.push_back(0);
    moment_.push_back(0);
    for (size_t i = 0; i < points.size(); ++i) {
      const Real distance = Real(points.positions[i]) - center;
      mass_.push_back(mass_.back() + Real(points.weights[i]));
      moment_.push_back(moment_.back() + Real(points.weights[i]) * distance);
      total_ += Real(points.weights[i]) * distance * distance;
    }
    best_.resize(size_ + size_t{1});
    from_.resize(size_ + size_t{1});
  }

  // The path of least cost + price * runs.
  Path best_path(Real price);
  // What differs between the costs of two paths: the cost less the sum of squares about the mean.
  Real relative_cost(const Path& path) const {
    Real cost = 0;
    for (size_t i = 0; i + 1 < path.size(); ++i) cost += run_cost(path[i], path[i + 1]);
    return cost;
  }
  // Sum of squares about the mean: what one run costs.
  Real total() const { return total_; }
  uint32_t size() const { return size_; }

 private:
  // From position `since` on `vertex` is the best begin of the last run (until the next one's).
  struct Candidate {
    uint32_t vertex;
    uint32_t since;
  };
  Real run_cost(uint32_t i, uint32_t j) const {
    const Real moment = moment_[j] - moment_[i];
    return -(moment * moment) / (mass_[j] - mass_[i]);
  }
  Real through(uint32_t i, uint32_t j) const { return best_[i] + run_cost(i, j); }
  uint32_t takes_over(uint32_t later, uint32_t earlier, uint32_t begin) const;

  uint32_t size_;
  std::vector<Real> mass_, moment_;  // prefix sums, of positions less their mean
  Real total_ = 0;
  std::vector<Real> best_;      // of the runs that end at a vertex, prices included
  std::vector<uint32_t> from_;  // where the last of them begins
  std::vector<Candidate> queue_;
};

// The first vertex from `begin` on at which `later` is at least as good a begin as `earlier`, or
// size() + 1. Once it is, it stays so. It is usually near: gallop, then bisect.
template <class Real>
uint32_t PricedPaths<Real>::takes_over(uint32_t later, uint32_t earlier, uint32_t begin) const {
  const auto is_over = [&](uint32_t j) { return through(later, j) <= through(earlier, j); };
  uint32_t low = begin, step = 1;  // at vertices below `low` it is not
  uint32_t high = size_ + 1;
  while (low <= size_) {
    const uint32_t probe = std::min(low + step - 1, size_);
    if (is_over(probe)) {
      high = probe;
      break;
    }
    low = probe + 1;
    step *= 2;
  }
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (is_over(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high;
}

template <class Real>
Path PricedPaths<Real>::best_path(Real price) {
  best_[0] = 0;
  queue_.assign(1, {0, 1});
  size_t front = 0;
  for (uint32_t j = 1; j <= size_; ++j) {
    while (front + 1 < queue_.size() && queue_[front + 1].since <= j) ++front;
    from_[j] = queue_[front].vertex;
    best_[j] = through(from_[j], j) + price;
    if (j == size_) break;
    while (queue_.size() > front + 1 &&
           through(j, queue_.back().since) <= through(queue_.back().vertex, queue_.back().since)) {
      queue_.pop_back();
    }
    const uint32_t since =
        takes_over(j, queue_.back().vertex, std::max(queue_.back().since, j + 1));
    if (since <= size_) queue_.push_back({j, since});
  }
  Path path{size_};
  while (path.back() != 0) path.push_back(from_[path.back()]);
  std::reverse(path.begin(), path.end());
  return path;
}

// One path of `k` runs out of one with fewer and one with more. Somewhere a run of `fewer`
// contains the run of `more` that is k - runs(fewer) later in the count; there the paths cross.
Path splice(const Path& fewer, const Path& more, int64_t k) {
  const auto shift = static_cast<size_t>(k - runs_of(fewer));
  for (size_t i = 0; i + 1 < fewer.size() && i + shift + 1 < more.size(); ++i) {
    if (fewer[i] <= more[i + shift] && more[i + shift + 1] <= fewer[i + 1]) {
      Path path(more.begin(), more.begin() + static_cast<int64_t>(i + shift) + 1);
      path.insert(path.end(), fewer.begin() + static_cast<int64_t>(i) + 1, fewer.end());
      return path;
    }
  }
  return more;  // not reached: such an i exists
}

template <class Real>
struct Priced {
  Path path;
  Real price;  // at which it was found
  Real relative_cost;
};

// Every point a run of its own, and all one run.
template <class Real>
std::pair<Priced<Real>, Priced<Real>> extremes(const PricedPaths<Real>& paths) {
  Path all(paths.size() + size_t{1});
  for (uint32_t i = 0; i <= paths.size(); ++i) all[i] = i;
  const Path one{0, paths.size()};
  return {{one, std::numeric_limits<Real>::infinity(), paths.relative_cost(one)},
          {all, Real(0), paths.relative_cost(all)}};
}

// The best path of k runs; `price` is a guess and becomes the price at which it was found. F falls
// about as 1 / k^2, so the price as 1 / k^3: most guesses follow that law. Where it fails, the
// slope between the two nearest paths known is a price that finds one between them, or shows that F
// is straight there.
template <class Real>
Path path_of(PricedPaths<Real>& paths, int64_t k, Real& price) {
  auto [fewer, more] = extremes(paths);
  if (k == 1) return fewer.path;
  if (k == static_cast<int64_t>(paths.size())) return more.path;
  constexpr int kGuesses = 12;
  for (int guess = 0;; ++guess) {
    const Real slope =
        (fewer.relative_cost - more.relative_cost) / Real(runs_of(more.path) - runs_of(fewer.path));
    const bool is_slope = guess >= kGuesses || !(price > more.price && price < fewer.price);
    if (is_slope) price = slope;
    Path path = paths.best_path(price);
    const int64_t runs = runs_of(path);
    if (runs == k) return path;
    if (runs <= runs_of(fewer.path) || runs >= runs_of(more.path)) {
      if (is_slope) return splice(fewer.path, more.path, k);
      guess = kGuesses;  // rounding: the guess says no more than the bracket
      continue;
    }
    const Real ratio = Real(runs) / Real(k);
    const Real next = price * ratio * ratio * ratio;
    Priced<Real>& side = runs < k ? fewer : more;
    side = {std::move(path), price, Real(0)};
    side.relative_cost = paths.relative_cost(side.path);
    price = next;
  }
}

// Runs of `group` points as one point each.
Points coarse(const Points& points, size_t group) {
  Points grouped;
  for (size_t begin = 0; begin < points.size(); begin += group) {
    const size_t end = std::min(begin + group, points.size());
    double mass = 0;
    for (size_t i = begin; i < end; ++i) mass += points.weights[i];
    grouped.positions.push_back(mean_of(points, begin, end));
    grouped.weights.push_back(mass);
  }
  return grouped;
}

// A price for k runs, from few points first: there passes are cheap, and the price hardly differs.
template <class Real>
Path search(const Points& points, int64_t k, Real& price) {
  constexpr size_t kFew = 512, kPerRun = 16, kRatio = 64;
  const size_t few = std::max(kFew, kPerRun * static_cast<size_t>(k));
  if (points.size() > 2 * few) {
    search(coarse(points, std::min(kRatio, points.size() / few)), k, price);
  }
  PricedPaths<Real> paths(points);
  if (price == 0) {
    const auto runs = static_cast<Real>(k);
    price = 2 * paths.total() / (runs * runs * runs);  // of a uniform density
  }
  return path_of(paths, k, price);
}

template <class Real>
Ends priced_partition(const Points& points, int k) {
  Real price = 0;
  const Path path = search<Real>(points, k, price);
  return {path.begin() + 1, path.end()};
}

// Few points: a table of all costs, each a running sum of squares (Welford), and one row of best
// costs for each number of runs, with monotone begins found by halving.
class DirectPartition {
 public:
  explicit DirectPartition(const Points& points) : size_(points.size()) {
    costs_.resize((size_ + 1) * (size_ + 1), 0.0);
    for (size_t i = 0; i < size_; ++i) {
      double mass = 0, mean = points.positions[i], cost = 0;
      for (size_t j = i; j < size_; ++j) {
        const double weight = points.weights[j], distance = points.positions[j] - mean;
        cost += distance * distance * (mass / (mass + weight)) * weight;
        mass += weight;
        mean += distance * (weight / mass);
        costs_[i * (size_ + 1) + j + 1] = cost;
      }
    }
  }

  Ends run(size_t k) {
    std::vector<std::vector<uint16_t>> begins(k, std::vector<uint16_t>(size_ + 1, 0));
    before_.assign(size_ + 1, std::numeric_limits<double>::infinity());
    before_[0] = 0;
    for (size_t runs = 0; runs < k; ++runs) {
      best_.assign(size_ + 1, std::numeric_limits<double>::infinity());
      fill(runs + 1, size_ + 1, runs, size_, begins[runs]);
      before_.swap(best_);
    }
    Ends ends(k);
    size_t end = size_;
    for (size_t run = k; run-- > 0; end = begins[run][end]) ends[run] = end;
    return ends;
  }

 private:
  // best_[j] for j in [low, high), whose last run begins within [first, last].
  void fill(size_t low, size_t high, size_t first, size_t last, std::vector<uint16_t>& begins) {
    if (low >= high) return;
    const size_t middle = low + (high - low) / 2;
    size_t begin = first;
    for (size_t i = first; i <= std::min(last, middle - 1); ++i) {
      const double cost = before_[i] + costs_[i * (size_ + 1) + middle];
      if (cost < best_[middle]) {
        best_[middle] = cost;
        begin = i;
      }
    }
    begins[middle] = static_cast<uint16_t>(begin);
    fill(low, middle, first, begin, begins);
    fill(middle + 1, high, begin, last, begins);
  }

  size_t size_;
  std::vector<double> costs_;  // [size + 1, size + 1], of the run [row, column)
  std::vector<double> before_, best_;
};

}  // namespace

Ends optimal_partition(const Points& points, int k) {
  if (points.size() <= kDirectAtMost) return DirectPartition(points).run(static_cast<size_t>(k));
  Ends ends = priced_partition<double>(points, k);
  // Prefix sums are right to about 1e-15 of the sum of squares about the mean; a cost that is small
  // beside it wants more digits to be the least to one in a million.
  constexpr double kWellConditioned = 1e-8;
  const double total = cost_of(points, {points.size()});
  if (cost_of(points, ends) >= kWellConditioned * total) return ends;
  Ends precise = priced_partition<long double>(points, k);
  return cost_of(points, precise) < cost_of(points, ends) ? precise : ends;
}

}  // namespace pomona
