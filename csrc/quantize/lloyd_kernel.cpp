// A cluster is a run of the sorted points, so an iteration is k - 1 binary searches for the runs'
// ends and k differences of prefix sums:
//
//   sorted     -3 -2 | 0  1 | 4 5 9        ends    2 4 7
//   centroids   -2.5    0.5     6          a point on a midpoint belongs to the lower centroid
//
// Everything is in double, in which no sum of products of floats overflows.

#include "quantize/lloyd_kernel.h"

#include "base/random.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pomona {
namespace {

// Lloyd always ends, but slowly where centroids creep: each iteration costs microseconds and after
// this many the error no longer falls noticeably.
constexpr int kMaxIterations = 1000;

class Runs {
 public:
  explicit Runs(const Points& points) : points_(points) {
    mass_.reserve(points.size() + 1);
    moment_.reserve(points.size() + 1);
    mass_.push_back(0);
    moment_.push_back(0);
    for (size_t i = 0; i < points.size(); ++i) {
      mass_.push_back(mass_.back() + points.weights[i]);
      moment_.push_back(moment_.back() + points.weights[i] * points.positions[i]);
    }
  }

  double mass(size_t begin, size_t end) const { return mass_[end] - mass_[begin]; }
  double total() const { return mass_.back(); }
  // Inside the run also where the prefix sums have lost its digits.
  double mean(size_t begin, size_t end) const {
    return std::clamp((moment_[end] - moment_[begin]) / mass(begin, end), points_.positions[begin],
                      points_.positions[end - 1]);
  }
  // The first point whose mass from the left, itself included, exceeds `mass`.
  size_t at_mass(double mass) const {
    const auto found = std::upper_bound(mass_.begin() + 1, mass_.end() - 1, mass);
    return static_cast<size_t>(found - mass_.begin()) - 1;
  }
  // One past the last point of each cluster that a centroid takes.
  Ends assign(std::span<const double> boundaries) const {
    Ends ends;
    auto from = points_.positions.begin();
    for (const double boundary : boundaries) {
      from = std::upper_bound(from, points_.positions.end(), boundary);
      ends.push_back(static_cast<size_t>(from - points_.positions.begin()));
    }
    ends.push_back(points_.size());
    return ends;
  }

 private:
  const Points& points_;
  std::vector<double> mass_, moment_;  // prefix sums
};

// Source: thesis §4.3, linear initialization.
std::vector<double> linear(const Points& points, int k) {
  const double low = points.positions.front(), high = points.positions.back();
  std::vector<double> centroids(static_cast<size_t>(k), low);
  for (int j = 1; j < k; ++j) centroids[static_cast<size_t>(j)] = low + (high - low) * j / (k - 1);
  return centroids;
}

// Source: thesis §4.3, density-based initialization: the levels are the middles of k equal parts.
std::vector<double> density(const Points& points, const Runs& runs, int k) {
  std::vector<double> centroids;
  for (int j = 0; j < k; ++j) {
    centroids.push_back(points.positions[runs.at_mass(runs.total() * (j + 0.5) / k)]);
  }
  return centroids;
}

// k different points. Source: thesis §4.3, Forgy initialization.
std::vector<double> forgy(const Points& points, const Runs& runs, int k, Random& random) {
  std::vector<size_t> chosen;
  while (chosen.size() < static_cast<size_t>(k)) {
    size_t point = runs.at_mass(random.uniform() * runs.total());
    // One that is taken already: the next that is not. There are k points at least.
    while (std::find(chosen.begin(), chosen.end(), point) != chosen.end()) {
      point = (point + 1) % points.size();
    }
    chosen.push_back(point);
  }
  std::vector<double> centroids;
  for (const size_t point : chosen) centroids.push_back(points.positions[point]);
  return centroids;
}

std::vector<double> plus_plus(const Points& points, const Runs& runs, int k, Random& random) {
  std::vector<double> centroids{points.positions[runs.at_mass(random.uniform() * runs.total())]};
  std::vector<double> shares(points.size());  // weight * squared distance to the nearest centroid
  for (size_t i = 0; i < shares.size(); ++i) {
    const double distance = points.positions[i] - centroids[0];
    shares[i] = points.weights[i] * distance * distance;
  }
  while (centroids.size() < static_cast<size_t>(k)) {
    double total = 0;
    for (const double share : shares) total += share;
    double left = random.uniform() * total;
    size_t chosen = 0;
    for (size_t i = 0; i < shares.size(); ++i) {
      if (shares[i] <= 0) continue;
      chosen = i;
      left -= shares[i];
      if (left < 0) break;
    }
    centroids.push_back(points.positions[chosen]);
    for (size_t i = 0; i < shares.size(); ++i) {
      const double distance = points.positions[i] - centroids.back();
      shares[i] = std::min(shares[i], points.weights[i] * distance * distance);
    }
  }
  return centroids;
}

std::vector<double> initialize(const Points& points, const Runs& runs, int k, Fit fit,
                               uint64_t seed) {
  Random random(seed);
  std::vector<double> centroids = fit == Fit::kLinear    ? linear(points, k)
                                  : fit == Fit::kDensity ? density(points, runs, k)
                                  : fit == Fit::kForgy   ? forgy(points, runs, k, random)
                                                         : plus_plus(points, runs, k, random);
  std::sort(centroids.begin(), centroids.end());
  return centroids;
}

std::vector<double> midpoints(std::span<const double> centroids) {
  std::vector<double> boundaries;
  for (size_t j = 0; j + 1 < centroids.size(); ++j) {
    boundaries.push_back((centroids[j] + centroids[j + 1]) / 2);
  }
  return boundaries;
}

// A centroid without members stays where it is: its neighbours may move and leave it some.
void average(const Runs& runs, const Ends& ends, std::vector<double>& centroids) {
  size_t begin = 0;
  for (size_t j = 0; j < ends.size(); begin = ends[j++]) {
    if (ends[j] > begin) centroids[j] = runs.mean(begin, ends[j]);
  }
}

void drop_empty(Ends& ends) {
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  if (ends.size() > 1 && ends.front() == 0) ends.erase(ends.begin());
}

}  // namespace

Ends lloyd_partition(const Points& points, int k, Fit fit, uint64_t seed) {
  const Runs runs(points);
  std::vector<double> centroids = initialize(points, runs, k, fit, seed);
  Ends ends = runs.assign(midpoints(centroids));
  for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
    average(runs, ends, centroids);
    Ends moved = runs.assign(midpoints(centroids));
    if (moved == ends) break;
    ends = std::move(moved);
  }
  drop_empty(ends);
  return ends;
}

Ends entropy_partition(const Points& points, Ends ends, double price) {
  const Runs runs(points);
  for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
    std::vector<double> centroids, costs;
    size_t begin = 0;
    for (const size_t end : ends) {
      centroids.push_back(runs.mean(begin, end));
      costs.push_back(-price * std::log2(runs.mass(begin, end) / runs.total()));
      begin = end;
    }
    Ends moved = runs.assign(boundaries_of(centroids, costs));
    drop_empty(moved);
    if (moved == ends) break;
    ends = std::move(moved);
  }
  return ends;
}

// Less x^2, each is a line of slope -2 c_j: the envelope is a stack of those that are the least
// somewhere, left to right.
std::vector<double> boundaries_of(std::span<const double> centroids,
                                  std::span<const double> costs) {
  std::vector<double> boundaries(centroids.size() - 1, -std::numeric_limits<double>::infinity());
  // From where on j is less than i. REQUIRES: centroids[i] < centroids[j].
  const auto crossing = [&](size_t i, size_t j) {
    return (centroids[i] + centroids[j]) / 2 +
           (costs[j] - costs[i]) / (2 * (centroids[j] - centroids[i]));
  };
  std::vector<size_t> stack;
  std::vector<double> from;  // where each of the stack begins
  for (size_t j = 0; j < centroids.size(); ++j) {
    double begin = -std::numeric_limits<double>::infinity();
    while (!stack.empty()) {
      const size_t top = stack.back();
      begin = centroids[top] < centroids[j] ? crossing(top, j)
              : costs[top] <= costs[j]      ? std::numeric_limits<double>::infinity()
                                            : -std::numeric_limits<double>::infinity();
      if (begin > from.back()) break;
      stack.pop_back();
      from.pop_back();
    }
    if (stack.empty()) begin = -std::numeric_limits<double>::infinity();
    stack.push_back(j);
    from.push_back(begin);
  }
  // Entries between two of the stack have an empty interval where the second begins.
  for (size_t s = 1; s < stack.size(); ++s) {
    for (size_t j = stack[s - 1]; j < stack[s]; ++j) boundaries[j] = from[s];
  }
  for (size_t j = stack.back(); j + 1 < centroids.size(); ++j) {
    boundaries[j] = std::numeric_limits<double>::infinity();
  }
  return boundaries;
}

}  // namespace pomona
