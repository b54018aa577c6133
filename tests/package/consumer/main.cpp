#include <gsa/error.h>
#include <gsa/version.h>

#include <iostream>

int main() try {
  std::cout << "gsa " << gsa::version() << "\n";
} catch (const gsa::Error& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
