#pragma once
// Leading-nonzero detection: a quadtree over the lanes of one group of activations, a node for each
// four. Source: EIE §IV (Figure 5).

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pomona::eie {

class LeadingNonZero {
 public:
  static constexpr int64_t kNone = -1;
  static constexpr int64_t kChildren = 4;

  explicit LeadingNonZero(int64_t lanes) {
    levels_.emplace_back(static_cast<size_t>(lanes));
    while (levels_.back().size() > 1) {
      levels_.emplace_back((levels_.back().size() + kChildren - 1) / kChildren);
    }
  }

  int64_t nodes() const {
    int64_t count = 0;
    for (size_t level = 1; level < levels_.size(); ++level) count += std::ssize(levels_[level]);
    return count;
  }

  // is_set(lane) for each lane; every node becomes the OR of its children.
  template <class IsSet>
  void load(IsSet is_set) {
    auto& lanes = levels_.front();
    for (size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] = is_set(lane);
    for (size_t level = 1; level < levels_.size(); ++level) {
      auto& nodes = levels_[level];
      nodes.assign(nodes.size(), 0);
      const auto& children = levels_[level - 1];
      for (size_t child = 0; child < children.size(); ++child) {
        nodes[child / kChildren] |= children[child];
      }
    }
  }

  // The first lane from `first` on that is set, or kNone.
  int64_t next(int64_t first) const {
    size_t level = 0, node = static_cast<size_t>(first);
    for (;;) {  // up and to the right until something is set, then down its leftmost way
      if (node >= levels_[level].size()) return kNone;
      if (levels_[level][node]) break;
      ++node;
      while (node % kChildren == 0 && level + 1 < levels_.size()) {
        node /= kChildren;
        ++level;
      }
    }
    while (level > 0) {
      --level;
      node *= kChildren;
      while (!levels_[level][node]) ++node;
    }
    return static_cast<int64_t>(node);
  }

 private:
  std::vector<std::vector<uint8_t>> levels_;  // lanes, then the nodes above them, at last the root
};

}  // namespace pomona::eie
