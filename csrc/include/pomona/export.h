#pragma once
// What is visible outside the shared libraries: everything else is hidden.
#define POMONA_API __attribute__((visibility("default")))
