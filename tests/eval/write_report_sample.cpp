// Writes the sample report into files that the command line names, in the formats of their endings.
#include "report_sample.h"

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) gsa::eval::write_report(gsa::eval::sample_report(), argv[i]);
}
