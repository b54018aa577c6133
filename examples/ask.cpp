// Asks one question about one text file: ask MODEL FILE QUESTION [POLICY]
#include <gsa/gsa.h>

#include <fstream>
#include <iostream>
#include <sstream>

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::cerr << "usage: ask MODEL FILE QUESTION [POLICY]\n";
    return 2;
  }
  std::stringstream document;
  document << std::ifstream(argv[2]).rdbuf();

  const gsa::Model model = gsa::Model::load(argv[1]);
  gsa::Session session(model, argc > 4 ? argv[4] : "gsa@16");
  session.read({document.str()});

  gsa::AskOptions options;
  options.on_text = [](std::string_view text) { std::cout << text << std::flush; };
  const gsa::Answer answer = session.ask(argv[3], options);
  std::cout << "\n\nread " << 100 * answer.fraction_read << " % of the keys, "
            << answer.decode_ms_per_token << " ms per token\n";
} catch (const gsa::Error& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
