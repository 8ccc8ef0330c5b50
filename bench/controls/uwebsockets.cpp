// The control on uWebSockets in C++, with topics of the library. Messages are forwarded as they
// came: topic and data are found by their position, so this server does less than all others.
#include "App.h"
#include <cstdlib>
#include <string_view>

struct Nothing {};

static std::string_view between(std::string_view text, std::string_view start) {
  size_t from = text.find(start);
  if (from == text.npos) return {};
  from += start.size();
  return text.substr(from, text.find('"', from) - from);
}

int main(int count, char **arguments) {
  int port = atoi(arguments[count - 1]);
  uWS::App app;
  app.ws<Nothing>("/*", {
    .compression = uWS::DISABLED,
    .maxPayloadLength = 4 * 1024 * 1024,
    .idleTimeout = 0,
    // The generator of the saturated work reads all; the default ends its sockets before.
    .maxBackpressure = 64 * 1024 * 1024,
    .sendPingsAutomatically = false,
    .message = [&app](auto *socket, std::string_view message, uWS::OpCode) {
      std::string_view topic = between(message, "\"topic\":\"");
      if (topic == "sub") {
        socket->subscribe(between(message, "\"data\":\""));
        socket->send("{\"topic\":\"subok\"}", uWS::OpCode::TEXT);
      } else if (topic == "echo") {
        socket->send(message, uWS::OpCode::TEXT);
      } else {
        app.publish(topic, message, uWS::OpCode::TEXT, false);
      }
    }
  }).listen("127.0.0.1", port, [](auto *listening) {
    if (!listening) exit(1);
  }).run();
}
