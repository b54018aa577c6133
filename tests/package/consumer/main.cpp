#include <gsa/gsa.h>

#include <iostream>

int main(int, char** argv) try {
  gsa::Session session(gsa::Model::load(argv[1]), "gsa@8");
  session.read({"The quick brown fox jumps over the lazy dog and the cat."});
  std::cout << gsa::version() << "\n" << session.ask("Who jumps?").text << "\n";
} catch (const gsa::Error& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
