// What a program without torch does with the installed library.
#include <pomona/error.h>
#include <pomona/selection.h>

#include <cstdio>
#include <vector>

int main() {
  const std::vector<float> scores = {0.5f, -0.1f, 2.0f, 0.3f};
  const pomona::Mask mask = pomona::select_smallest(scores, 0.5);
  std::printf("pomona %s: kept %d%d%d%d\n", pomona::version(), mask[0], mask[1], mask[2], mask[3]);
}
