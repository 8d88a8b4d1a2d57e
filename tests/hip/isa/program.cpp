#include "hip/isa/program.h"

#include <cctype>
#include <charconv>
#include <cstring>
#include <set>
#include <sstream>

#include "hip/isa/hazards.h"

namespace sextant::hip::isa {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

bool parse_register(const std::string& text, Operand* operand) {
  static const std::map<std::string, std::pair<int, int>> kNamed = {
      {"vcc", {kVcc, 2}},      {"vcc_lo", {kVcc, 1}},       {"vcc_hi", {kVcc + 1, 1}}, {"exec", {kExec, 2}},
      {"exec_lo", {kExec, 1}}, {"exec_hi", {kExec + 1, 1}}, {"m0", {kM0, 1}}};
  operand->kind = Operand::Kind::kScalar;
  if (const auto named = kNamed.find(text); named != kNamed.end()) {
    operand->index = named->second.first;
    operand->count = named->second.second;
    return true;
  }
  // "v12" or "v[12:15]"
  if (text.size() < 2 || (text[0] != 's' && text[0] != 'v' && text[0] != 'a')) return false;
  const bool range = text[1] == '[';
  const char* begin = text.data() + (range ? 2 : 1);
  const char* const end = text.data() + text.size();
  const auto [first_end, error] = std::from_chars(begin, end, operand->index);
  if (error != std::errc() || (!range && first_end != end)) return false;
  if (range) {
    int last = 0;
    const auto [last_end, last_error] = std::from_chars(first_end + 1, end, last);
    if (*first_end != ':' || last_error != std::errc() || *last_end != ']') return false;
    operand->count = last - operand->index + 1;
  }
  if (text[0] != 's') operand->kind = Operand::Kind::kVector;
  if (text[0] == 'a') operand->index += kFirstAccumulator;
  return true;
}

bool parse_operand(std::string text, Operand* operand) {
  if (text == "off") {
    operand->kind = Operand::Kind::kOff;
    return true;
  }
  operand->kind = Operand::Kind::kConstant;
  if (std::isdigit(static_cast<unsigned char>(text[text[0] == '-' && text.size() > 1 ? 1 : 0])) != 0) {
    if (text.find('.') == std::string::npos)
      operand->constant = static_cast<uint64_t>(std::stoll(text, nullptr, 0));
    else
      operand->constant = bits_of(std::stof(text));
    return true;
  }
  if (text.starts_with("sext(")) {
    operand->sign_extend = true;
    text = text.substr(5, text.size() - 6);
  }
  if (text.front() == '-') {
    operand->negate = true;
    text.erase(0, 1);
  }
  if (text.size() > 2 && text.front() == '|' && text.back() == '|') {
    operand->absolute = true;
    text = text.substr(1, text.size() - 2);
  }
  return parse_register(text, operand);
}

Part parse_part(const std::string& text) {
  if (text == "WORD_0") return Part::kWord0;
  if (text == "WORD_1") return Part::kWord1;
  if (text.starts_with("BYTE_")) return static_cast<Part>(static_cast<int>(Part::kByte0) + text[5] - '0');
  return Part::kDword;
}

Flow flow_of(const std::string& name) {
  static const std::map<std::string, Flow> kFlows = {{"s_endpgm", Flow::kEnd},
                                                     {"s_branch", Flow::kBranch},
                                                     {"s_cbranch_scc0", Flow::kScc0},
                                                     {"s_cbranch_scc1", Flow::kScc1},
                                                     {"s_cbranch_vccz", Flow::kVccZero},
                                                     {"s_cbranch_vccnz", Flow::kVccSome},
                                                     {"s_cbranch_execz", Flow::kExecZero},
                                                     {"s_cbranch_execnz", Flow::kExecSome},
                                                     {"s_barrier", Flow::kBarrier}};
  const auto found = kFlows.find(name);
  return found == kFlows.end() ? Flow::kNext : found->second;
}

void read_modifiers(Instruction* in) {
  const auto text = [&](const char* name) {
    const auto found = in->modifiers.find(name);
    return found == in->modifiers.end() ? std::string() : found->second;
  };
  const auto number = [&](const char* name, int otherwise) {
    const std::string value = text(name);
    return value.empty() ? otherwise : static_cast<int>(std::stol(value, nullptr, 0));
  };
  const auto bits = [&](const char* name, uint8_t otherwise) {
    const std::string value = text(name);
    if (value.empty()) return otherwise;
    uint8_t mask = 0;
    for (size_t i = 0; 1 + 2 * i < value.size(); ++i)
      if (value[1 + 2 * i] == '1') mask = static_cast<uint8_t>(mask | 1U << i);
    return mask;
  };
  in->source_part[0] = parse_part(text("src0_sel"));
  in->source_part[1] = parse_part(text("src1_sel"));
  in->result_part = parse_part(text("dst_sel"));
  in->preserves = text("dst_unused") == "UNUSED_PRESERVE";
  in->partial = in->source_part[0] != Part::kDword || in->source_part[1] != Part::kDword;
  in->clamp = in->modifiers.count("clamp") != 0;
  in->to_lds = in->modifiers.count("lds") != 0 || in->name.find("_lds_") != std::string::npos;
  in->op_sel = bits("op_sel", 0);
  in->op_sel_hi = bits("op_sel_hi", 0xff);
  in->neg_lo = bits("neg_lo", 0);
  in->neg_hi = bits("neg_hi", 0);
  in->offset = number("offset", 0);
  in->offset0 = number("offset0", 0);
  in->offset1 = number("offset1", 0);
  in->bitop3 = number("bitop3", 0);
  in->vmcnt = number("vmcnt", -1);
  in->lgkmcnt = number("lgkmcnt", -1);
  if (in->name == "s_nop") in->wait_states = static_cast<int>(in->operands[0].constant) + 1;
}

// "clamp", "offset:16", "op_sel:[0,1]", "vmcnt(0)"; false: an operand.
bool read_modifier(const std::string& word, Instruction* out) {
  static const std::set<std::string> kFlags = {"clamp", "lds", "offen",      "idxen",          "glc", "slc", "nt",
                                               "sc0",   "sc1", "row_mirror", "row_half_mirror"};
  if (kFlags.count(word) != 0) {
    out->modifiers[word] = "";
    return true;
  }
  const size_t mark = word.find_first_of(":(");
  if (mark == std::string::npos || word.starts_with("sext(") || word.find('|') < mark) return false;
  if (word.find('[') < mark) return false;  // a range of registers
  const bool called = word[mark] == '(';
  out->modifiers[word.substr(0, mark)] = word.substr(mark + 1, word.size() - mark - 1 - (called ? 1 : 0));
  return true;
}

// "v_add_u32_e32 v1, v2, v3 offset:4" without the comment.
bool parse_instruction(const std::string& text, Instruction* out) {
  out->text = text;
  std::istringstream words(text);
  words >> out->name;
  out->dpp = out->name.ends_with("_dpp");
  for (const char* suffix : {"_e32", "_e64", "_sdwa", "_dpp"})
    if (out->name.ends_with(suffix)) out->name.resize(out->name.size() - std::strlen(suffix));
  std::string rest;
  std::getline(words, rest);
  std::string operands;
  std::istringstream parts(rest);
  for (std::string word; parts >> word;) {
    const std::string bare = word.back() == ',' ? word.substr(0, word.size() - 1) : word;
    if (!read_modifier(bare, out)) operands += word;
  }
  out->flow = flow_of(out->name);
  std::istringstream list(operands);
  for (std::string item; std::getline(list, item, ',');) {
    Operand operand;
    if (out->flow != Flow::kNext && item.find_first_not_of("-0123456789") != std::string::npos) continue;  // a label
    if (!parse_operand(item, &operand)) return false;
    out->operands.push_back(operand);
  }
  read_modifiers(out);
  out->handler = find_handler(out->name);
  return true;
}

}  // namespace

void leave_out(Instruction& in) {
  in.name = "s_nop";
  in.text += " (left out)";
  in.flow = Flow::kNext;
  in.handler = find_handler("s_nop");
  in.vmcnt = in.lgkmcnt = -1;
}

Program parse_program(const std::string& text, const std::string& name, const std::string& architecture) {
  Program program;
  program.name = name;
  program.architecture = architecture;
  std::map<int64_t, int> index_of;
  std::vector<std::pair<size_t, int64_t>> branches;
  int64_t start = -1;
  std::istringstream lines(text);
  const std::string header = " <" + name + ">:";
  for (std::string line; std::getline(lines, line);) {
    if (line.find(header) != std::string::npos) {
      start = std::stoll(line, nullptr, 16);
      continue;
    }
    if (start < 0) continue;
    if (line.empty() || line[0] != '\t') {
      if (line.find(">:") != std::string::npos) break;
      continue;
    }
    const size_t comment = line.find("//");
    if (comment == std::string::npos) continue;
    Instruction instruction;
    if (!parse_instruction(line.substr(1, comment - 1), &instruction)) {
      program.fault = "cannot read: " + line.substr(1, comment - 1);
      return program;
    }
    classify(instruction, architecture);
    const std::string& op = instruction.name;
    if (op.starts_with("ds_write_b8") || op.starts_with("ds_write_b16")) program.lds_cell = 2;
    instruction.address = std::stoll(line.substr(comment + 2), nullptr, 16);
    index_of[instruction.address] = static_cast<int>(program.code.size());
    if (const size_t at = line.rfind("+0x"); at != std::string::npos && line.back() == '>')
      branches.emplace_back(program.code.size(), start + std::stoll(line.substr(at + 1), nullptr, 16));
    else if (line.back() == '>' && instruction.name.find("branch") != std::string::npos)
      branches.emplace_back(program.code.size(), start);
    program.code.push_back(std::move(instruction));
  }
  for (const auto& [at, target] : branches) {
    if (index_of.count(target) == 0) {
      program.fault = "a branch leaves the kernel: " + program.code[at].text;
      return program;
    }
    program.code[at].target = index_of[target];
  }
  if (program.code.empty()) program.fault = "no kernel " + name;
  return program;
}

}  // namespace sextant::hip::isa
