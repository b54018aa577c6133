// Prompts, answer lengths and metrics of LongBench v1 (Bai et al. 2023; THUDM/LongBench:
// config/dataset2prompt.json, config/dataset2maxlen.json, eval.py, pred.py) and of Liu et al. 2023
// (nelson-liu/lost-in-the-middle: prompts/qa.prompt).
#include <algorithm>
#include <array>

#include "eval/task_format.h"

namespace gsa::eval {
namespace {

enum class Prompt { chat, raw };
enum class Scored { first_line, whole };

struct Entry {
  std::string_view name, before, after;
  Metric metric;
  std::int64_t max_tokens;
  Prompt prompt;
  Scored scored;
  std::string_view language;
};

constexpr std::string_view passages_before =
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any "
    "other words.\n\nThe following are given passages.\n";
constexpr std::string_view passages_after =
    "\n\nAnswer the question based on the given passages. Only give me the answer and do not "
    "output "
    "any other words.\n\nQuestion: {input}\nAnswer:";
constexpr std::string_view search_before =
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant).\n\n";
constexpr std::string_view search_after = "\n\nQuestion: {input}\nAnswer:";

constexpr std::array entries = std::to_array<Entry>({
    {"narrativeqa",
     "You are given a story, which can be either a novel or a movie script, and a question. Answer "
     "the question as concisely as you can, using a single phrase if possible. Do not provide any "
     "explanation.\n\nStory: ",
     "\n\nNow, answer the question based on the story as concisely as you can, using a single "
     "phrase "
     "if possible. Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
     Metric::qa_f1, 128, Prompt::chat, Scored::first_line, "en"},
    {"qasper",
     "You are given a scientific article and a question. Answer the question as concisely as you "
     "can, using a single phrase or sentence if possible. If the question cannot be answered based "
     "on the information in the article, write \"unanswerable\". If the question is a yes/no "
     "question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any "
     "explanation.\n\nArticle: ",
     "\n\n Answer the question based on the above article as concisely as you can, using a single "
     "phrase or sentence if possible. If the question cannot be answered based on the information "
     "in the article, write \"unanswerable\". If the question is a yes/no question, answer "
     "\"yes\", "
     "\"no\", or \"unanswerable\". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
     Metric::qa_f1, 128, Prompt::chat, Scored::first_line, "en"},
    {"multifieldqa_en", "Read the following text and answer briefly.\n\n",
     "\n\nNow, answer the following question based on the above text, only give me the answer and "
     "do "
     "not output any other words.\n\nQuestion: {input}\nAnswer:",
     Metric::qa_f1, 64, Prompt::chat, Scored::first_line, "en"},
    {"multifieldqa_zh", "阅读以下文字并用中文简短回答：\n\n",
     "\n\n现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n问题：{input}"
     "\n回答：",
     Metric::qa_f1_zh, 64, Prompt::chat, Scored::first_line, "zh"},
    {"hotpotqa", passages_before, passages_after, Metric::qa_f1, 32, Prompt::chat,
     Scored::first_line, "en"},
    {"2wikimqa", passages_before, passages_after, Metric::qa_f1, 32, Prompt::chat,
     Scored::first_line, "en"},
    {"musique", passages_before, passages_after, Metric::qa_f1, 32, Prompt::chat,
     Scored::first_line, "en"},
    {"dureader", "请基于给定的文章回答下述问题。\n\n文章：",
     "\n\n请基于上述文章回答下面的问题。\n\n问题：{input}\n回答：", Metric::rouge_l_zh, 128,
     Prompt::chat, Scored::whole, "zh"},
    {"gov_report",
     "You are given a report by a government agency. Write a one-page summary of the "
     "report.\n\nReport:\n",
     "\n\nNow, write a one-page summary of the report.\n\nSummary:", Metric::rouge_l, 512,
     Prompt::chat, Scored::whole, "en"},
    {"qmsum",
     "You are given a meeting transcript and a query containing a question or instruction. Answer "
     "the query in one or more sentences.\n\nTranscript:\n",
     "\n\nNow, answer the query based on the above meeting transcript in one or more "
     "sentences.\n\nQuery: {input}\nAnswer:",
     Metric::rouge_l, 512, Prompt::chat, Scored::whole, "en"},
    {"multi_news",
     "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n",
     "\n\nNow, write a one-page summary of all the news.\n\nSummary:", Metric::rouge_l, 512,
     Prompt::chat, Scored::whole, "en"},
    {"vcsum", "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n",
     "\n\n会议总结：", Metric::rouge_l_zh, 512, Prompt::chat, Scored::whole, "zh"},
    {"trec",
     "Please determine the type of the question below. Here are some examples of questions.\n\n",
     "\n{input}", Metric::classification, 64, Prompt::raw, Scored::first_line, "en"},
    {"triviaqa",
     "Answer the question based on the given passage. Only give me the answer and do not output "
     "any "
     "other words. The following are some examples.\n\n",
     "\n\n{input}", Metric::qa_f1, 32, Prompt::raw, Scored::first_line, "en"},
    {"samsum",
     "Summarize the dialogue into a few short sentences. The following are some examples.\n\n",
     "\n\n{input}", Metric::rouge_l, 128, Prompt::raw, Scored::first_line, "en"},
    {"lsht", "请判断给定新闻的类别，下面是一些例子。\n\n", "\n{input}", Metric::classification, 64,
     Prompt::raw, Scored::first_line, "zh"},
    {"passage_count",
     "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. "
     "Please "
     "carefully read these paragraphs and determine how many unique paragraphs there are after "
     "removing duplicates. In other words, how many non-repeating paragraphs are there in "
     "total?\n\n",
     "\n\nPlease enter the final count of unique paragraphs after removing duplicates. The output "
     "format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: ",
     Metric::count, 32, Prompt::chat, Scored::whole, "en"},
    {"passage_retrieval_en",
     "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
     "paragraph the abstract is from.\n\n",
     "\n\nThe following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph "
     "that "
     "the abstract is from. The answer format must be like \"Paragraph 1\", \"Paragraph 2\", "
     "etc.\n\nThe answer is: ",
     Metric::retrieval, 32, Prompt::chat, Scored::whole, "en"},
    {"passage_retrieval_zh",
     "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n",
     "\n\n下面是一个摘要\n\n{input}\n\n请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\""
     "等格式\n\n答案是：",
     Metric::retrieval_zh, 32, Prompt::chat, Scored::whole, "zh"},
    {"lcc", "Please complete the code given below. \n", "Next line of code:\n",
     Metric::code_similarity, 64, Prompt::raw, Scored::whole, "code"},
    {"repobench-p", "Please complete the code given below. \n", "{input}Next line of code:\n",
     Metric::code_similarity, 64, Prompt::raw, Scored::whole, "code"},
    {"nq", search_before, search_after, Metric::subspan_match, 100, Prompt::chat,
     Scored::first_line, "en"},
    {"triviaqa_open", search_before, search_after, Metric::subspan_match, 100, Prompt::chat,
     Scored::first_line, "en"},
});

}  // namespace

std::optional<TaskFormat> find_format(std::string_view name) {
  const auto entry = std::ranges::find(entries, name, &Entry::name);
  if (entry == entries.end()) return std::nullopt;
  TaskFormat format;
  format.name = name;
  format.prompt = make_prompt(entry->before, entry->after, name);
  format.prompt->use_chat_template = entry->prompt == Prompt::chat;
  format.metric = entry->metric;
  format.max_tokens = entry->max_tokens;
  format.first_line = entry->scored == Scored::first_line;
  format.uses_input = entry->after.find("{input}") != std::string_view::npos;
  format.numbers_documents = entry->before == search_before;
  format.language = entry->language;
  return format;
}

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.emplace_back(entry.name);
  return names;
}

}  // namespace gsa::eval
